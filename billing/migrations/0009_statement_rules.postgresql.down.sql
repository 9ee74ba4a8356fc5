DROP TRIGGER billing_statement_no_change ON billing_statement;
--
DROP TRIGGER billing_statement_no_truncate ON billing_statement;
