DROP TRIGGER billing_usagerecord_roll_up ON billing_usagerecord;
--
DROP FUNCTION billing_roll_up_usage();
