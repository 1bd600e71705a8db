-- Every stored intent waits for a batch from the moment it is stored, whoever stored it. In the same transaction, so that
-- none is left out; and by digest, which is unique, so that none waits twice.

CREATE FUNCTION payments_queue_for_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO payments_unbatched (digest, charged_atomic, served_total_atomic)
    SELECT digest, charged_atomic, coalesce(served_total_atomic, 0) FROM stored;
    RETURN NULL;
END
$$;

CREATE TRIGGER payments_queue_for_batch AFTER INSERT ON payment_intents
    REFERENCING NEW TABLE AS stored FOR EACH STATEMENT EXECUTE FUNCTION payments_queue_for_batch();

INSERT INTO payments_unbatched (digest, charged_atomic, served_total_atomic)
SELECT digest, charged_atomic, coalesce(served_total_atomic, 0) FROM payment_intents ORDER BY received_at, digest;

-- What is in a batch stays as it is: the chain has its hash.

CREATE FUNCTION payments_refuse_leaf_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'leaves of a batch are never changed' USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER payments_batch_leaf_fixed BEFORE UPDATE ON payments_batch_leaf
    FOR EACH STATEMENT EXECUTE FUNCTION payments_refuse_leaf_change();

CREATE FUNCTION payments_check_batch_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.root, NEW.leaf_count, NEW.total_atomic, NEW.page_roots)
        IS DISTINCT FROM (OLD.root, OLD.leaf_count, OLD.total_atomic, OLD.page_roots) THEN
        RAISE EXCEPTION 'what batch % is over never changes', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.state = 'COMMITTED'
        AND (NEW.state, NEW.sequence, NEW.head) IS DISTINCT FROM (OLD.state, OLD.sequence, OLD.head) THEN
        RAISE EXCEPTION 'batch % is committed', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER payments_batch_fixed BEFORE UPDATE ON payments_batch
    FOR EACH ROW EXECUTE FUNCTION payments_check_batch_change();
