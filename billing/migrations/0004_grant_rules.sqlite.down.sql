DROP TRIGGER billing_grant_only_spent_grows;
--
DROP TRIGGER billing_creditgrant_no_delete;
--
DROP TRIGGER billing_grantuse_no_update;
--
DROP TRIGGER billing_grantuse_no_delete;
--
DROP TRIGGER billing_grant_use_fits_its_transfer;
