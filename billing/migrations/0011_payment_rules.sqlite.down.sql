DROP TRIGGER billing_payment_asks_once;
--
DROP TRIGGER billing_payment_no_delete;
--
DROP TRIGGER billing_refund_asks_once;
--
DROP TRIGGER billing_refund_no_delete;
--
DROP TRIGGER billing_refund_within_payment;
--
DROP TRIGGER billing_event_is_kept;
--
DROP TRIGGER billing_paymentevent_no_delete;
