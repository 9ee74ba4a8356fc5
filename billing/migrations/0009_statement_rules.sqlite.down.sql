DROP TRIGGER billing_statement_no_update;
--
DROP TRIGGER billing_statement_no_delete;
