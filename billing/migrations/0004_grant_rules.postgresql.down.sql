DROP TRIGGER billing_grant_only_spent_grows ON billing_creditgrant;
--
DROP TRIGGER billing_creditgrant_no_delete ON billing_creditgrant;
--
DROP TRIGGER billing_creditgrant_no_truncate ON billing_creditgrant;
--
DROP TRIGGER billing_grantuse_no_change ON billing_grantuse;
--
DROP TRIGGER billing_grantuse_no_truncate ON billing_grantuse;
--
DROP TRIGGER billing_grant_use_fits_its_transfer ON billing_grantuse;
--
DROP FUNCTION billing_refuse_unfit_grant_change();
--
DROP FUNCTION billing_refuse_foreign_grant_use();
