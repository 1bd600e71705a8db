-- What a payout must obey, whoever writes it. A payout that ended stays as it ended, nobody changes whom or how much it
-- pays, and an attempt's bytes are the ones that were signed.

CREATE FUNCTION payouts_check_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status IN ('CONFIRMED', 'FAILED')
       OR (OLD.user_id, OLD.reference, OLD.amount_atomic, OLD.wallet, OLD.created_at)
          IS DISTINCT FROM (NEW.user_id, NEW.reference, NEW.amount_atomic, NEW.wallet, NEW.created_at)
    THEN
        RAISE EXCEPTION 'payout % has ended, or keeps what it was requested as', OLD.id
            USING ERRCODE = 'check_violation';
    END IF;
    -- It is over only when no transaction can pay it any more, and paid only if one did.
    IF NEW.status IN ('PENDING', 'FAILED') AND EXISTS (
        SELECT FROM payout_attempts a WHERE a.payout_id = NEW.id AND a.outcome IN ('OPEN', 'LANDED')
    ) OR NEW.status = 'CONFIRMED' AND NOT EXISTS (
        SELECT FROM payout_attempts a
        WHERE a.payout_id = NEW.id AND a.outcome = 'LANDED' AND a.signature = NEW.tx_hash
    ) THEN
        RAISE EXCEPTION 'payout % cannot be %: its attempts say otherwise', OLD.id, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER payouts_change BEFORE UPDATE ON payouts FOR EACH ROW EXECUTE FUNCTION payouts_check_change();

CREATE FUNCTION payout_attempts_check_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.outcome <> 'OPEN'
       OR (OLD.payout_id, OLD.number, OLD.signature, OLD.raw_transaction, OLD.last_valid_block_height)
          IS DISTINCT FROM (NEW.payout_id, NEW.number, NEW.signature, NEW.raw_transaction, NEW.last_valid_block_height)
    THEN
        RAISE EXCEPTION 'attempt % is decided, or keeps the bytes that were signed', OLD.id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER payout_attempts_change BEFORE UPDATE ON payout_attempts
    FOR EACH ROW EXECUTE FUNCTION payout_attempts_check_change();

CREATE FUNCTION payouts_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is kept for ever', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER payouts_permanent BEFORE DELETE ON payouts
    FOR EACH STATEMENT EXECUTE FUNCTION payouts_refuse_delete();
CREATE TRIGGER payout_attempts_permanent BEFORE DELETE ON payout_attempts
    FOR EACH STATEMENT EXECUTE FUNCTION payouts_refuse_delete();
