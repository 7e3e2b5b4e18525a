-- A database and a role for each service, and one each for the two outside parties that are simulated. A role reaches no
-- database but its own. May be run again, and makes what is missing; a password that somebody changed stays. A password is the
-- name of its role, for servers that only the loopback address or the containers' own network reaches.
\set ON_ERROR_STOP on
CREATE TEMPORARY TABLE owners (name text);
INSERT INTO owners VALUES ('order'), ('inventory'), ('payment'), ('shipping'), ('auditor'), ('bank'), ('carrier');
SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', name, name) FROM owners
    WHERE name NOT IN (SELECT rolname FROM pg_roles) \gexec
SELECT format('ALTER ROLE %I LOGIN', name) FROM owners \gexec
SELECT format('CREATE DATABASE %I OWNER %I', name, name) FROM owners
    WHERE name NOT IN (SELECT datname FROM pg_database) \gexec
SELECT format('ALTER DATABASE %I OWNER TO %I', name, name) FROM owners JOIN pg_database ON datname = name
    WHERE pg_get_userbyid(datdba) <> name \gexec
SELECT format('GRANT ALL ON DATABASE %I TO %I', name, name) FROM owners \gexec
-- By default everybody may connect to every database.
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', name) FROM owners \gexec
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
