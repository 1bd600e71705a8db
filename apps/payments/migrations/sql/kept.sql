-- What was signed or charged stays as it was stored, totals only rise, and what ended stays ended, whoever writes.
-- The conditions are asked only of updates that name these columns.

CREATE FUNCTION payments_refuse_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% keeps what is signed, charged or final', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER payment_intents_signed BEFORE UPDATE OF
    nonce_time, agent, nonce, channel, gateway, vendor, digest, amount_atomic, charged_atomic, charged_through_atomic,
    cumulative_atomic, deadline, request_hash, signature, http_status, served_total_atomic, served_at, receipt_signature
ON payment_intents FOR EACH ROW WHEN (
    (OLD.nonce_time, OLD.agent, OLD.nonce, OLD.channel, OLD.gateway, OLD.vendor, OLD.digest, OLD.amount_atomic,
     OLD.charged_atomic, OLD.charged_through_atomic, OLD.cumulative_atomic, OLD.deadline, OLD.request_hash,
     OLD.signature, OLD.http_status, OLD.served_total_atomic, OLD.served_at, OLD.receipt_signature)
    IS DISTINCT FROM
    (NEW.nonce_time, NEW.agent, NEW.nonce, NEW.channel, NEW.gateway, NEW.vendor, NEW.digest, NEW.amount_atomic,
     NEW.charged_atomic, NEW.charged_through_atomic, NEW.cumulative_atomic, NEW.deadline, NEW.request_hash,
     NEW.signature, NEW.http_status, NEW.served_total_atomic, NEW.served_at, NEW.receipt_signature)
) EXECUTE FUNCTION payments_refuse_rewrite();
CREATE TRIGGER payment_intents_ended BEFORE UPDATE OF status ON payment_intents FOR EACH ROW
    WHEN (OLD.status IN ('SETTLED', 'SLASHED', 'VOID') AND NEW.status <> OLD.status)
    EXECUTE FUNCTION payments_refuse_rewrite();
CREATE TRIGGER payment_intents_kept BEFORE DELETE ON payment_intents
    FOR EACH ROW EXECUTE FUNCTION payments_refuse_rewrite();
CREATE TRIGGER payment_intents_no_truncate BEFORE TRUNCATE ON payment_intents
    FOR EACH STATEMENT EXECUTE FUNCTION payments_refuse_rewrite();

CREATE TRIGGER payments_settlement_signed BEFORE UPDATE OF
    kind, vendor, signature, raw_transaction, last_valid_block_height, channel_count, planned_atomic
ON payments_settlement FOR EACH ROW WHEN (
    (OLD.kind, OLD.vendor, OLD.signature, OLD.raw_transaction, OLD.last_valid_block_height, OLD.channel_count,
     OLD.planned_atomic)
    IS DISTINCT FROM
    (NEW.kind, NEW.vendor, NEW.signature, NEW.raw_transaction, NEW.last_valid_block_height, NEW.channel_count,
     NEW.planned_atomic)
) EXECUTE FUNCTION payments_refuse_rewrite();
CREATE TRIGGER payments_settlement_ended BEFORE UPDATE OF state ON payments_settlement FOR EACH ROW
    WHEN (OLD.state IN ('FINALIZED', 'FAILED') AND NEW.state <> OLD.state)
    EXECUTE FUNCTION payments_refuse_rewrite();

CREATE TRIGGER payments_channel_rises BEFORE UPDATE OF
    agent, gateway, vendor, highest_cumulative_atomic, charged_total_atomic, credited_atomic, settled_atomic
ON payments_channel FOR EACH ROW WHEN (
    (OLD.agent, OLD.gateway, OLD.vendor) IS DISTINCT FROM (NEW.agent, NEW.gateway, NEW.vendor)
    OR NEW.highest_cumulative_atomic < OLD.highest_cumulative_atomic
    OR NEW.charged_total_atomic < OLD.charged_total_atomic
    OR NEW.credited_atomic < OLD.credited_atomic
    OR NEW.settled_atomic < OLD.settled_atomic
) EXECUTE FUNCTION payments_refuse_rewrite();

CREATE TRIGGER payments_gateway_vendor BEFORE UPDATE OF vendor ON payments_gateway FOR EACH ROW
    WHEN (NEW.vendor <> OLD.vendor) EXECUTE FUNCTION payments_refuse_rewrite();
CREATE TRIGGER payments_network_bound BEFORE UPDATE OR DELETE ON payments_network
    FOR EACH ROW EXECUTE FUNCTION payments_refuse_rewrite();

CREATE TRIGGER payments_enforcement_no_truncate BEFORE TRUNCATE ON payments_enforcement
    FOR EACH STATEMENT EXECUTE FUNCTION payments_refuse_rewrite();
CREATE TRIGGER payments_case_entry_no_truncate BEFORE TRUNCATE ON payments_case_entry
    FOR EACH STATEMENT EXECUTE FUNCTION payments_refuse_rewrite();
