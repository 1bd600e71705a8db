-- What leases must always obey, whoever writes them.

-- Everything that can still be taken from the bond of an agent through its channels: per channel the larger of an open claim
-- and of lease and liability together. A lease is a ceiling on the channel's charges, so charges under it are not added.
CREATE FUNCTION payments_exposure(of_agent text) RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(greatest(c.claim, c.committed)), 0) + greatest(
        -- The agent's account may have been read later than its channels.
        coalesce((SELECT a.open_claims_atomic FROM payments_agent a WHERE a.agent = of_agent), 0)
            - coalesce(sum(c.claim), 0),
        0
    )
    FROM (
        SELECT
            greatest(h.claim_cumulative_atomic - h.settled_atomic, 0) AS claim,
            greatest(greatest(h.charged_total_atomic, coalesce(l.up_to_atomic, 0)) - h.settled_atomic, 0) AS committed
        FROM payments_channel h
        LEFT JOIN payments_lease l ON l.channel = h.address AND l.state = 'LIVE'
        WHERE h.agent = of_agent
    ) c
$$;

-- What may still be leased of an agent's bond; below zero if more is promised than there is.
CREATE FUNCTION payments_leasable(of_agent text) RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT a.bond_atomic - a.pending_withdrawal_atomic - k.min_bond_atomic - payments_exposure(of_agent)
    FROM payments_agent a CROSS JOIN payments_chain_config k
    WHERE a.agent = of_agent
$$;

CREATE FUNCTION payments_check_lease() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE pair record; room numeric;
BEGIN
    SELECT c.agent, c.gateway INTO pair FROM payments_channel c WHERE c.address = NEW.channel;
    IF pair.agent <> NEW.agent OR pair.gateway <> NEW.gateway THEN
        RAISE EXCEPTION 'lease % names other parties than its channel', NEW.id USING ERRCODE = 'check_violation';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD.state <> 'LIVE' OR NEW.channel <> OLD.channel OR NEW.from_atomic <> OLD.from_atomic THEN
            RAISE EXCEPTION 'lease % has ended or is another one', NEW.id USING ERRCODE = 'check_violation';
        END IF;
        IF OLD.revoked_at IS NOT NULL AND (
            NEW.revoked_at IS NULL OR NEW.up_to_atomic > OLD.up_to_atomic OR NEW.expires_at > OLD.expires_at
        ) THEN
            RAISE EXCEPTION 'lease % is revoked', NEW.id USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.state <> 'LIVE' OR NEW.up_to_atomic <= OLD.up_to_atomic THEN
            RETURN NULL;
        END IF;
    END IF;
    -- The agent's row orders all grants of its bond; a grant that holds it already passes at once.
    PERFORM 1 FROM payments_agent a WHERE a.agent = NEW.agent FOR NO KEY UPDATE;
    room := payments_leasable(NEW.agent);
    IF room IS NULL OR room < 0 THEN
        RAISE EXCEPTION 'leases of % are above its bond by %', NEW.agent, -room USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER payments_lease_within_bond AFTER INSERT OR UPDATE ON payments_lease
    FOR EACH ROW EXECUTE FUNCTION payments_check_lease();

-- Written by the transaction itself, so that readers can tell what they have seen, see selectors/changes.py.
ALTER TABLE payments_agent_change ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX payments_agent_change_xid ON payments_agent_change (xid);

CREATE FUNCTION payments_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER payments_enforcement_append_only BEFORE UPDATE OR DELETE ON payments_enforcement
    FOR EACH STATEMENT EXECUTE FUNCTION payments_refuse_change();
