DROP TRIGGER billing_payment_asks_once ON billing_payment;
--
DROP TRIGGER billing_payment_no_delete ON billing_payment;
--
DROP TRIGGER billing_refund_asks_once ON billing_refund;
--
DROP TRIGGER billing_refund_no_delete ON billing_refund;
--
DROP TRIGGER billing_refund_within_payment ON billing_refund;
--
DROP TRIGGER billing_event_is_kept ON billing_paymentevent;
--
DROP TRIGGER billing_paymentevent_no_delete ON billing_paymentevent;
--
DROP FUNCTION billing_refuse_changed_payment();
--
DROP FUNCTION billing_refuse_changed_refund();
--
DROP FUNCTION billing_refuse_excess_refund();
--
DROP FUNCTION billing_refuse_changed_event();
