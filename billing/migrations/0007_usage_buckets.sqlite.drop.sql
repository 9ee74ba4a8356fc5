DROP TRIGGER billing_usagerecord_no_update;
--
DROP TRIGGER billing_usagerecord_no_delete;
--
DROP TRIGGER billing_usagerecord_roll_up;
