import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.*;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PSQLException;

/** What the JDBC driver sees of a server: `java -cp postgresql.jar JdbcCheck.java URL whole|keyed` prints it. */
public class JdbcCheck {
    static String url;

    interface Run {
        void run(Connection c) throws Exception;
    }

    interface Try {
        Object run() throws Exception;
    }

    static void show(String label, Object... values) {
        StringJoiner line = new StringJoiner(" ", "  " + label + ": ", "");
        for (Object value : values) line.add(String.valueOf(value));
        System.out.println(line.toString().replace("\n", "\\n"));
    }

    static void failure(String label, Try run) throws Exception {
        try {
            show(label, "no error", run.run());
        } catch (BatchUpdateException e) {
            show(label, "batch", e.getSQLState(), Arrays.toString(e.getUpdateCounts()), e.getNextException() == null ? "" : e.getNextException().getMessage());
        } catch (PSQLException e) {
            var server = e.getServerErrorMessage();
            show(label, e.getSQLState(), server == null ? "" : server.getMessage() + "|" + server.getDetail() + "|" + server.getHint() + "|" + server.getPosition() + "|" + server.getConstraint());
        } catch (SQLException e) {
            show(label, e.getClass().getSimpleName(), e.getSQLState());
        }
    }

    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        for (int i = 0; i < options.length; i += 2) properties.setProperty(options[i], options[i + 1]);
        properties.setProperty("user", "app");
        properties.setProperty("password", "app");
        return DriverManager.getConnection(url, properties);
    }

    static String rows(ResultSet rows) throws SQLException {
        StringJoiner all = new StringJoiner(", ", "[", "]");
        int columns = rows.getMetaData().getColumnCount();
        while (rows.next()) {
            StringJoiner row = new StringJoiner("|");
            for (int n = 1; n <= columns; n++) row.add(rows.getString(n));
            all.add(row.toString());
        }
        return all.toString();
    }

    static String query(Connection c, String sql) throws SQLException {
        try (Statement s = c.createStatement()) {
            return s.execute(sql) ? rows(s.getResultSet()) : "count " + s.getUpdateCount();
        }
    }

    static void simple(Connection c) throws Exception {
        DatabaseMetaData about = c.getMetaData();
        show("product", about.getDatabaseProductName(), about.getDatabaseMajorVersion(), c.getSchema(), c.getTransactionIsolation());
        show("values", query(c, "SELECT 1, 'x', NULL, 1.5, true, '\\x00ff'::bytea, date '2024-02-29', ARRAY[1,2], '{\"a\":1}'::jsonb"));
        query(c, "CREATE TABLE jdbc_simple (a int PRIMARY KEY, b text NOT NULL, c numeric(8,2), d timestamptz DEFAULT now())");
        try (Statement s = c.createStatement()) {
            boolean found = s.execute("INSERT INTO jdbc_simple VALUES (1, 'x', 1); SELECT a, b FROM jdbc_simple; UPDATE jdbc_simple SET b = 'y'");
            while (found || s.getUpdateCount() != -1) {
                show("many", found ? rows(s.getResultSet()) : s.getUpdateCount());
                found = s.getMoreResults();
            }
            s.executeUpdate("INSERT INTO jdbc_simple VALUES (2, 'two', 2)", Statement.RETURN_GENERATED_KEYS);
            ResultSet keys = s.getGeneratedKeys();
            show("generated", keys.next() ? keys.getInt(1) : null);
        }
        try (ResultSet columns = about.getColumns(null, "public", "jdbc_simple", "%")) {
            while (columns.next()) show("column", columns.getString("COLUMN_NAME"), columns.getString("TYPE_NAME"), columns.getString("IS_NULLABLE"), columns.getString("COLUMN_DEF"));
        }
        try (ResultSet keys = about.getPrimaryKeys(null, "public", "jdbc_simple")) {
            while (keys.next()) show("key", keys.getString("COLUMN_NAME"), keys.getString("PK_NAME"));
        }
        try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
            ResultSet rows = s.executeQuery("SELECT a, b FROM jdbc_simple ORDER BY a");
            rows.last();
            rows.updateString("b", "updated");
            rows.updateRow();
            rows.moveToInsertRow();
            rows.updateInt("a", 3);
            rows.updateString("b", "inserted");
            rows.insertRow();
            rows.first();
            rows.deleteRow();
        }
        show("updatable", query(c, "SELECT a, b FROM jdbc_simple ORDER BY a"));
        failure("syntax", () -> query(c, "SELEC 1"));
        failure("unique", () -> query(c, "INSERT INTO jdbc_simple VALUES (2, 'x', 1)"));
        failure("null", () -> query(c, "INSERT INTO jdbc_simple VALUES (5, NULL, 1, '2024-01-01Z')"));
        failure("table", () -> query(c, "SELECT * FROM jdbc_nowhere"));
        query(c, "DROP TABLE jdbc_simple");
    }

    static void prepared(Connection c) throws Exception {
        query(c, "CREATE TABLE jdbc_prepared (a int PRIMARY KEY, b text, c timestamp, d bytea, e uuid, f numeric, g float8, h bool, i bigint)");
        try (PreparedStatement insert = c.prepareStatement("INSERT INTO jdbc_prepared VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")) {
            for (int n = 0; n < 12; n++) {
                insert.setInt(1, n);
                insert.setString(2, n == 3 ? null : "row ż " + n);
                insert.setTimestamp(3, Timestamp.valueOf("2024-02-29 12:00:0" + n % 10));
                insert.setBytes(4, new byte[] {0, (byte) n, -1});
                insert.setObject(5, new UUID(n, n * 7L));
                insert.setBigDecimal(6, new BigDecimal("1234567.890").multiply(BigDecimal.valueOf(n)));
                insert.setDouble(7, n / 4.0);
                insert.setBoolean(8, n % 2 == 0);
                insert.setLong(9, 1L << (n * 5));
                show("insert", insert.executeUpdate());
            }
        }
        try (PreparedStatement select = c.prepareStatement("SELECT * FROM jdbc_prepared WHERE a = ? OR b = ? ORDER BY a")) {
            for (int n = 0; n < 12; n++) {
                select.setInt(1, n);
                select.setString(2, "row ż 5");
                try (ResultSet rows = select.executeQuery()) {
                    rows.next();
                    show("row", rows.getInt(1), rows.getString(2), rows.getTimestamp(3), Arrays.toString(rows.getBytes(4)), rows.getObject(5), rows.getBigDecimal(6), rows.getDouble(7), rows.getBoolean(8), rows.getLong(9));
                }
            }
            show("metadata", select.getMetaData().getColumnTypeName(3), select.getParameterMetaData().getParameterTypeName(1));
        }
        try (PreparedStatement array = c.prepareStatement("SELECT count(*) FROM jdbc_prepared WHERE a = ANY (?)")) {
            array.setArray(1, c.createArrayOf("int4", new Integer[] {1, 2, 77}));
            show("array", rows(array.executeQuery()));
        }
        try (PreparedStatement wrong = c.prepareStatement("SELECT ?::int")) {
            wrong.setString(1, "x");
            failure("wrong", () -> rows(wrong.executeQuery()));
            wrong.setString(1, "7");
            show("right", rows(wrong.executeQuery()));
        }
        try (PreparedStatement batch = c.prepareStatement("UPDATE jdbc_prepared SET b = ? WHERE a = ?")) {
            for (int n = 0; n < 300; n++) {
                batch.setString(1, "batch " + n);
                batch.setInt(2, n % 15);
                batch.addBatch();
            }
            int[] counts = batch.executeBatch();
            show("batch", counts.length, Arrays.stream(counts).sum());
        }
        c.setAutoCommit(false);
        failure("batch", () -> {
            try (PreparedStatement batch = c.prepareStatement("INSERT INTO jdbc_prepared (a) VALUES (?)")) {
                for (int n : new int[] {100, 101, 5, 102}) {
                    batch.setInt(1, n);
                    batch.addBatch();
                }
                return batch.executeBatch().length;
            }
        });
        c.rollback();
        c.setAutoCommit(true);
        show("left", query(c, "SELECT count(*), max(b) FROM jdbc_prepared"));
        query(c, "DROP TABLE jdbc_prepared");
    }

    static void transactions(Connection c) throws Exception {
        query(c, "CREATE TABLE jdbc_t (a int PRIMARY KEY)");
        c.setAutoCommit(false);
        query(c, "INSERT INTO jdbc_t VALUES (1)");
        Savepoint savepoint = c.setSavepoint("here");
        query(c, "INSERT INTO jdbc_t VALUES (2)");
        failure("unique", () -> query(c, "INSERT INTO jdbc_t VALUES (1)"));
        failure("failed", () -> query(c, "SELECT 1"));
        c.rollback(savepoint);
        show("rows", query(c, "SELECT * FROM jdbc_t"));
        c.commit();
        c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        c.setReadOnly(true);
        show("level", query(c, "SHOW transaction_isolation"), query(c, "SHOW transaction_read_only"));
        failure("read only", () -> query(c, "INSERT INTO jdbc_t VALUES (5)"));
        c.rollback();
        c.setReadOnly(false);
        c.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        try (PreparedStatement s = c.prepareStatement("SELECT g, repeat('x', g) FROM generate_series(1, 500) g")) {
            s.setFetchSize(33);
            int sum = 0;
            try (ResultSet rows = s.executeQuery()) {
                while (rows.next()) sum += rows.getString(2).length();
            }
            show("fetched", sum);
            ResultSet first = s.executeQuery();
            first.next();
            try (PreparedStatement other = c.prepareStatement("SELECT count(*) FROM jdbc_t")) {
                show("in between", rows(other.executeQuery()));
            }
            for (int n = 0; n < 99; n++) first.next();
            show("hundredth", first.getInt(1));
            first.close();
        }
        c.commit();
        c.setAutoCommit(true);
        try (Connection saving = connect("autosave", "always", "prepareThreshold", "1")) {
            saving.setAutoCommit(false);
            try (PreparedStatement insert = saving.prepareStatement("INSERT INTO jdbc_t VALUES (?)")) {
                for (int n = 1; n < 6; n++) {
                    insert.setInt(1, n);
                    failure("saved", insert::executeUpdate);
                }
            }
            saving.commit();
        }
        try (Connection saving = connect("autosave", "conservative", "prepareThreshold", "1")) {
            saving.setAutoCommit(false);
            PreparedStatement select = saving.prepareStatement("SELECT * FROM jdbc_t ORDER BY 1");
            show("before DDL", rows(select.executeQuery()));
            saving.commit();
        }
        show("rows", query(c, "SELECT * FROM jdbc_t ORDER BY 1"));
        query(c, "DROP TABLE jdbc_t");
        CallableStatement call = c.prepareCall("{? = call upper(?)}");
        call.registerOutParameter(1, Types.VARCHAR);
        call.setString(2, "called");
        call.execute();
        show("call", call.getString(1));
    }

    static void copy(Connection c) throws Exception {
        query(c, "CREATE TABLE jdbc_copy (a int, b text)");
        CopyManager copy = c.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder text = new StringBuilder();
        for (int n = 0; n < 20000; n++) text.append(n).append("\tline ").append(n).append('\n');
        show("in", copy.copyIn("COPY jdbc_copy FROM STDIN", new StringReader(text.toString())));
        show("csv", copy.copyIn("COPY jdbc_copy FROM STDIN (FORMAT csv)", new ByteArrayInputStream("7,\"x, y\"\n".getBytes(StandardCharsets.UTF_8))));
        failure("bad", () -> copy.copyIn("COPY jdbc_copy FROM STDIN", new StringReader("x\ty\n".repeat(30000))));
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        show("out", copy.copyOut("COPY jdbc_copy TO STDOUT", out), out.size());
        var cancelled = copy.copyIn("COPY jdbc_copy FROM STDIN");
        cancelled.writeToCopy("1\tx\n".getBytes(StandardCharsets.UTF_8), 0, 4);
        cancelled.cancelCopy();
        var reading = copy.copyOut("COPY (SELECT generate_series(1, 100000)) TO STDOUT");
        show("first", new String(reading.readFromCopy(), StandardCharsets.UTF_8));
        while (reading.readFromCopy() != null) {}
        show("out", reading.getHandledRowCount());
        show("count", query(c, "SELECT count(*), sum(a) FROM jdbc_copy"));
        query(c, "DROP TABLE jdbc_copy");
    }

    static void largeObjects(Connection c) throws Exception {
        c.setAutoCommit(false);
        LargeObjectManager objects = c.unwrap(PGConnection.class).getLargeObjectAPI();
        long oid = objects.createLO(LargeObjectManager.READWRITE);
        LargeObject object = objects.open(oid, LargeObjectManager.READWRITE);
        byte[] data = "large ".repeat(50000).getBytes(StandardCharsets.UTF_8);
        object.write(data);
        show("size", object.size(), object.tell());
        object.seek(6);
        show("read", new String(object.read(12), StandardCharsets.UTF_8));
        object.truncate(100);
        show("truncated", object.size());
        object.close();
        c.commit();
        objects.delete(oid);
        c.commit();
        try {
            objects.open(oid, LargeObjectManager.READ);
            show("still there");
        } catch (SQLException e) {
            show("gone", e.getSQLState());
        }
        c.rollback();
        c.setAutoCommit(true);
    }

    static void cancelling(Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            s.setQueryTimeout(1);
            failure("timeout", () -> s.executeQuery("SELECT pg_sleep(60)"));
            s.setQueryTimeout(0);
            show("then", rows(s.executeQuery("SELECT 'fine'")));
            Thread thread = new Thread(() -> {
                try (Connection watcher = connect()) {
                    while (!query(watcher, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(61)'").equals("[1]")) Thread.sleep(5);
                    s.cancel();
                } catch (Exception e) {
                    show("not cancelled", e);
                }
            });
            thread.start();
            failure("cancel", () -> s.executeQuery("SELECT pg_sleep(61)"));
            thread.join();
            show("then", rows(s.executeQuery("SELECT 'fine'")));
        }
        try (Connection other = connect("options", "-c statement_timeout=40", "ApplicationName", "jdbc check")) {
            failure("options", () -> query(other, "SELECT pg_sleep(60)"));
            show("application", query(other, "SHOW application_name"));
        }
        show("valid", c.isValid(5));
        try (Statement s = c.createStatement()) {
            s.execute("DO $$ BEGIN RAISE WARNING 'careful'; END $$");
            show("warning", s.getWarnings().getMessage(), s.getWarnings().getSQLState());
        }
        query(c, "LISTEN jdbc_channel");
        try (Connection other = connect()) {
            query(other, "NOTIFY jdbc_channel, 'heard'");
        }
        PGNotification[] heard = c.unwrap(PGConnection.class).getNotifications(10000);
        show("heard", heard.length, heard[0].getName(), heard[0].getParameter());
    }

    static void simpleMode(Connection unused) throws Exception {
        try (Connection c = connect("preferQueryMode", "simple")) {
            try (PreparedStatement s = c.prepareStatement("SELECT ?::int + ?, ?")) {
                for (int n = 0; n < 7; n++) {
                    s.setInt(1, n);
                    s.setInt(2, -n * 2);
                    s.setString(3, "it's \\ ż");
                    show("simple mode", rows(s.executeQuery()));
                }
            }
        }
    }

    static void keyed(Connection c) throws Exception {
        Map<String, Object[]> keys = new LinkedHashMap<>();
        keys.put("by_int", new Object[] {1L, 2L, 3L, 4L, 1L << 45, -6L});
        keys.put("by_text", new Object[] {"", "ann", "o'neil", "żuk", "z".repeat(200)});
        keys.put("by_uuid", new Object[] {new UUID(1, 2), new UUID(3, 4), new UUID(5, 6), new UUID(7, 8)});
        for (var entry : keys.entrySet()) {
            String table = entry.getKey();
            try (PreparedStatement insert = c.prepareStatement("INSERT INTO " + table + " (user_id, n) VALUES (?, ?)");
                    PreparedStatement update = c.prepareStatement("UPDATE " + table + " SET n = n + ? WHERE user_id = ?");
                    PreparedStatement select = c.prepareStatement("SELECT user_id, n FROM " + table + " WHERE user_id = ?");
                    PreparedStatement delete = c.prepareStatement("DELETE FROM " + table + " WHERE user_id = ?")) {
                for (int round = 0; round < 8; round++) {
                    for (Object key : entry.getValue()) {
                        insert.setObject(1, key);
                        insert.setInt(2, round);
                        update.setInt(1, 10);
                        update.setObject(2, key);
                        select.setObject(1, key);
                        delete.setObject(1, key);
                        c.setAutoCommit(round % 2 == 0);
                        show("round " + round, insert.executeUpdate(), update.executeUpdate(), rows(select.executeQuery()), delete.executeUpdate());
                        if (round % 2 == 1) c.commit();
                    }
                }
                c.setAutoCommit(true);
                insert.setObject(1, entry.getValue()[1]);
                insert.setInt(2, 1);
                show("insert", insert.executeUpdate());
                failure("again", insert::executeUpdate);
                delete.setObject(1, entry.getValue()[1]);
                show("delete", delete.executeUpdate());
                fetchEveryKey(c, table, entry.getValue(), insert, delete);
            }
        }
    }

    /** Rows of all shards in portions: the driver asks for so many at a time while autocommit is off. */
    static void fetchEveryKey(Connection c, String table, Object[] keys, PreparedStatement insert, PreparedStatement delete) throws Exception {
        for (int n = 0; n < keys.length; n++) {
            insert.setObject(1, keys[n]);
            insert.setInt(2, n);
            insert.executeUpdate();
        }
        c.setAutoCommit(false);
        try (PreparedStatement every = c.prepareStatement("SELECT user_id, n + ? FROM " + table + " ORDER BY n");
                PreparedStatement count = c.prepareStatement("SELECT count(*) FROM " + table)) {
            every.setFetchSize(2);
            for (int round = 0; round < 6; round++) {
                every.setInt(1, round);
                ResultSet found = every.executeQuery();
                found.next();
                show("first", found.getString(1), found.getInt(2), rows(count.executeQuery()));
                show("rest", rows(found));
            }
        }
        c.commit();
        c.setAutoCommit(true);
        for (Object key : keys) {
            delete.setObject(1, key);
            delete.executeUpdate();
        }
    }

    static void section(String name, Run run) throws Exception {
        System.out.println(name);
        try (Connection c = connect()) {
            run.run(c);
        } catch (Exception e) {
            show("broke", e);
        }
    }

    public static void main(String[] arguments) throws Exception {
        url = arguments[0];
        TimeZone.setDefault(TimeZone.getTimeZone("UTC"));
        Locale.setDefault(Locale.ROOT);
        if (arguments[1].equals("keyed")) {
            section("keyed", JdbcCheck::keyed);
            return;
        }
        section("simple", JdbcCheck::simple);
        section("prepared", JdbcCheck::prepared);
        section("transactions", JdbcCheck::transactions);
        section("copy", JdbcCheck::copy);
        section("large objects", JdbcCheck::largeObjects);
        section("cancelling", JdbcCheck::cancelling);
        section("simple mode", JdbcCheck::simpleMode);
    }
}
