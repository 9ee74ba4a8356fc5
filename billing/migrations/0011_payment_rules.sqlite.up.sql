CREATE TRIGGER billing_payment_asks_once BEFORE UPDATE ON billing_payment
WHEN NEW.id IS NOT OLD.id OR NEW.organization_id IS NOT OLD.organization_id
  OR NEW.public_id IS NOT OLD.public_id OR NEW.kind IS NOT OLD.kind
  OR NEW.amount_nanos IS NOT OLD.amount_nanos OR NEW.idempotency_key IS NOT OLD.idempotency_key
  OR NEW.created_at IS NOT OLD.created_at
  OR (OLD.status = 'SUCCEEDED'
      AND (NEW.status IS NOT OLD.status OR NEW.transfer_id IS NOT OLD.transfer_id))
BEGIN
    SELECT RAISE(ABORT, 'billing_payment_asks_once: what a payment asked for never changes, and one that is credited stays so.');
END;
--
CREATE TRIGGER billing_payment_no_delete BEFORE DELETE ON billing_payment
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_payment are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_refund_asks_once BEFORE UPDATE ON billing_refund
WHEN NEW.id IS NOT OLD.id OR NEW.payment_id IS NOT OLD.payment_id
  OR NEW.public_id IS NOT OLD.public_id OR NEW.amount_nanos IS NOT OLD.amount_nanos
  OR NEW.is_external IS NOT OLD.is_external OR NEW.idempotency_key IS NOT OLD.idempotency_key
  OR NEW.created_at IS NOT OLD.created_at OR NEW.hold_id IS NOT OLD.hold_id
  OR (OLD.status <> 'REQUESTED' AND NEW.status <> OLD.status)
BEGIN
    SELECT RAISE(ABORT, 'billing_refund_asks_once: what a refund asked for never changes, and one that has ended stays so.');
END;
--
CREATE TRIGGER billing_refund_no_delete BEFORE DELETE ON billing_refund
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_refund are never edited or deleted: add a new row instead.');
END;
--
CREATE TRIGGER billing_refund_within_payment BEFORE INSERT ON billing_refund
WHEN NEW.amount_nanos + (
    SELECT COALESCE(SUM(amount_nanos), 0) FROM billing_refund
    WHERE payment_id = NEW.payment_id AND status <> 'FAILED'
) > (SELECT amount_nanos FROM billing_payment WHERE id = NEW.payment_id)
BEGIN
    SELECT RAISE(ABORT, 'billing_refund_within_payment: a payment is refunded at most once in full.');
END;
--
CREATE TRIGGER billing_event_is_kept BEFORE UPDATE ON billing_paymentevent
WHEN NEW.id IS NOT OLD.id OR NEW.provider_event_id IS NOT OLD.provider_event_id
  OR NEW.type IS NOT OLD.type OR NEW.payload IS NOT OLD.payload
  OR NEW.received_at IS NOT OLD.received_at
BEGIN
    SELECT RAISE(ABORT, 'billing_event_is_kept: an event is kept as it came.');
END;
--
CREATE TRIGGER billing_paymentevent_no_delete BEFORE DELETE ON billing_paymentevent
BEGIN
    SELECT RAISE(ABORT, 'Rows of billing_paymentevent are never edited or deleted: add a new row instead.');
END;
