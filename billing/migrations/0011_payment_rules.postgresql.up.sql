CREATE FUNCTION billing_refuse_changed_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.organization_id, NEW.public_id, NEW.kind, NEW.amount_nanos, NEW.idempotency_key, NEW.created_at)
            IS DISTINCT FROM
       (OLD.id, OLD.organization_id, OLD.public_id, OLD.kind, OLD.amount_nanos, OLD.idempotency_key, OLD.created_at)
       OR (OLD.status = 'SUCCEEDED' AND
           (NEW.status, NEW.transfer_id) IS DISTINCT FROM (OLD.status, OLD.transfer_id))
    THEN
        RAISE EXCEPTION 'What a payment asked for never changes, and one that is credited stays so.'
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'billing_payment_asks_once';
    END IF;
    RETURN NEW;
END $$;
--
CREATE TRIGGER billing_payment_asks_once BEFORE UPDATE ON billing_payment
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_changed_payment();
--
CREATE TRIGGER billing_payment_no_delete BEFORE DELETE ON billing_payment
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
--
CREATE FUNCTION billing_refuse_changed_refund() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.payment_id, NEW.public_id, NEW.amount_nanos, NEW.is_external, NEW.idempotency_key, NEW.created_at)
            IS DISTINCT FROM
       (OLD.id, OLD.payment_id, OLD.public_id, OLD.amount_nanos, OLD.is_external, OLD.idempotency_key, OLD.created_at)
       OR NEW.hold_id IS DISTINCT FROM OLD.hold_id
       OR (OLD.status <> 'REQUESTED' AND NEW.status <> OLD.status)
    THEN
        RAISE EXCEPTION 'What a refund asked for never changes, and one that has ended stays so.'
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'billing_refund_asks_once';
    END IF;
    RETURN NEW;
END $$;
--
CREATE TRIGGER billing_refund_asks_once BEFORE UPDATE ON billing_refund
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_changed_refund();
--
CREATE TRIGGER billing_refund_no_delete BEFORE DELETE ON billing_refund
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
--
CREATE FUNCTION billing_refuse_excess_refund() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.amount_nanos + (
        SELECT COALESCE(SUM(amount_nanos), 0) FROM billing_refund
        WHERE payment_id = NEW.payment_id AND status <> 'FAILED'
    ) > (SELECT amount_nanos FROM billing_payment WHERE id = NEW.payment_id)
    THEN
        RAISE EXCEPTION 'A payment is refunded at most once in full.'
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'billing_refund_within_payment';
    END IF;
    RETURN NEW;
END $$;
--
CREATE TRIGGER billing_refund_within_payment BEFORE INSERT ON billing_refund
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_excess_refund();
--
CREATE FUNCTION billing_refuse_changed_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.provider_event_id, NEW.type, NEW.payload, NEW.received_at)
            IS DISTINCT FROM
       (OLD.id, OLD.provider_event_id, OLD.type, OLD.payload, OLD.received_at)
    THEN
        RAISE EXCEPTION 'An event is kept as it came.'
            USING ERRCODE = 'integrity_constraint_violation',
                  CONSTRAINT = 'billing_event_is_kept';
    END IF;
    RETURN NEW;
END $$;
--
CREATE TRIGGER billing_event_is_kept BEFORE UPDATE ON billing_paymentevent
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_changed_event();
--
CREATE TRIGGER billing_paymentevent_no_delete BEFORE DELETE ON billing_paymentevent
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
