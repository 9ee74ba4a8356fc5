DROP TRIGGER billing_transfer_no_update;
--
DROP TRIGGER billing_transfer_no_delete;
--
DROP TRIGGER billing_priceversion_no_update;
--
DROP TRIGGER billing_priceversion_no_delete;
--
DROP TRIGGER billing_usagerecord_no_update;
--
DROP TRIGGER billing_usagerecord_no_delete;
--
DROP TRIGGER billing_transfer_resolution_fits_its_hold;
