DROP TRIGGER billing_transfer_no_change ON billing_transfer;
--
DROP TRIGGER billing_transfer_no_truncate ON billing_transfer;
--
DROP TRIGGER billing_priceversion_no_change ON billing_priceversion;
--
DROP TRIGGER billing_priceversion_no_truncate ON billing_priceversion;
--
DROP TRIGGER billing_usagerecord_no_change ON billing_usagerecord;
--
DROP TRIGGER billing_usagerecord_no_truncate ON billing_usagerecord;
--
DROP TRIGGER billing_transfer_resolution_fits_its_hold ON billing_transfer;
--
DROP FUNCTION billing_refuse_unfit_resolution();
--
DROP FUNCTION billing_refuse_change();
