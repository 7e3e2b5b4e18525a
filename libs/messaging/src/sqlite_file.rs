//! The tables of the embedded bus, and what of a file can be seen to be missing.
use rusqlite::Connection;
use store::sqlite::Refusal;
use store::sqlite_file::Form;

/// The file of a bus: "JANB".
pub(crate) const BUS: Form = Form { application_id: 0x4a41_4e42, layout: 1, tables: TABLES, views: VIEWS, holes };

const TABLES: &str = "
    CREATE TABLE topics (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL) STRICT;
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
        key TEXT NOT NULL, headers TEXT NOT NULL, payload BLOB NOT NULL, UNIQUE (topic, partition, offset)) STRICT;
    CREATE TABLE acknowledged (
        listener TEXT NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
        PRIMARY KEY (listener, topic, partition)) STRICT, WITHOUT ROWID;";

/// What people read of it. The payload of an event is protobuf, and stays so.
const VIEWS: &str = "
    CREATE VIEW IF NOT EXISTS messages_readable AS
        SELECT name AS topic, partition, offset, messages.key,
            (SELECT json_extract(value, '$[1]') FROM json_each(headers) WHERE json_extract(value, '$[0]') = 'ce_type') AS type,
            (SELECT json_extract(value, '$[1]') FROM json_each(headers) WHERE json_extract(value, '$[0]') = 'ce_time') AS time, headers, payload
        FROM messages JOIN topics ON topics.key = topic;
    CREATE VIEW IF NOT EXISTS acknowledged_readable AS
        SELECT listener, name AS topic, partition, next FROM acknowledged JOIN topics ON topics.key = topic;";

/// Something was acknowledged that is not there: the end of the file is older than the rest.
const LOST_END: &str = "SELECT listener || ' has acknowledged ' || (next - 1) || ' of ' || name || '/' || partition
        || ', which is missing'
    FROM acknowledged AS a JOIN topics ON a.topic = topics.key WHERE next > ifnull(
        (SELECT max(offset) + 1 FROM messages AS m WHERE m.topic = a.topic AND m.partition = a.partition), 0) LIMIT 1";
const LOST: &str = "SELECT 'messages of ' || name || '/' || partition || ' are missing'
    FROM messages JOIN topics ON topic = topics.key
    GROUP BY topic, partition HAVING count(*) <> max(offset) + 1 OR min(offset) <> 0 LIMIT 1";

fn holes(db: &Connection, small: bool) -> Result<(), Refusal> {
    for query in if small { &[LOST_END, LOST][..] } else { &[LOST_END] } {
        match db.query_row(query, [], |row| row.get(0)) {
            Err(rusqlite::Error::QueryReturnedNoRows) => {}
            found => return Err(Refusal::Damaged(found?)),
        }
    }
    Ok(())
}
