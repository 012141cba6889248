import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.*;
import java.util.*;
import org.postgresql.util.PSQLException;

/** Batches of the JDBC driver on a sharded database: `java -cp postgresql.jar JdbcWrites.java URL writes.sql`. */
public class JdbcWrites {
    static void show(String label, Object... values) {
        StringJoiner line = new StringJoiner(" ", "  " + label + ": ", "");
        for (Object value : values) line.add(String.valueOf(value));
        System.out.println(line.toString().replace("\n", "\\n"));
    }

    static String rows(ResultSet found) throws SQLException {
        StringJoiner all = new StringJoiner(";");
        while (found.next()) {
            StringJoiner row = new StringJoiner(",");
            for (int i = 1; i <= found.getMetaData().getColumnCount(); i++) row.add(found.getString(i));
            all.add(row.toString());
        }
        return all.toString();
    }

    static String query(Connection c, String sql) throws SQLException {
        try (Statement s = c.createStatement()) {
            return rows(s.executeQuery(sql));
        }
    }

    static String left(Connection c) throws SQLException {
        return query(c, "SELECT count(*), sum(n), min(title), max(title) FROM notes");
    }

    /** Of a batch that it has rewritten the driver knows no counts (-2 each). */
    static String counts(int[] counts) {
        return counts.length + " sum " + Arrays.stream(counts).sum();
    }

    static void batch(Connection c, String label, String sql, Object[][] rows, boolean keys) throws SQLException {
        String[] columns = keys ? new String[] {"id"} : new String[0];
        try (PreparedStatement s = c.prepareStatement(sql, columns)) {
            for (Object[] row : rows) {
                for (int i = 0; i < row.length; i++) s.setObject(i + 1, row[i]);
                s.addBatch();
            }
            String counted = counts(s.executeBatch());
            show(label, counted, keys ? rows(s.getGeneratedKeys()) : "", left(c));
        } catch (BatchUpdateException e) {
            PSQLException first = (PSQLException) e.getNextException();
            show(label, e.getSQLState(), first == null ? "" : first.getServerErrorMessage().getDetail());
            if (!c.getAutoCommit()) c.rollback();
        }
    }

    static Object[][] notes(String title, int count) {
        Object[][] rows = new Object[count][];
        for (int n = 0; n < count; n++) rows[n] = new Object[] {(long) (n % 8 + 1), title + n, n};
        return rows;
    }

    static void run(Connection c) throws Exception {
        Object[][] people = new Object[8][];
        for (int n = 0; n < 8; n++) people[n] = new Object[] {n + "@x"};
        batch(c, "people", "INSERT INTO people (email) VALUES (?)", people, true);
        String insert = "INSERT INTO notes (user_id, title, n) VALUES (?, ?, ?)";
        batch(c, "batch", insert, notes("a", 500), false);
        batch(c, "keys", insert, notes("b", 30), true);
        batch(c, "upsert", insert + " ON CONFLICT (user_id, title) DO UPDATE SET n = notes.n + excluded.n", notes("a", 100), false);
        batch(c, "ignore", insert + " ON CONFLICT DO NOTHING", notes("b", 40), false);
        if (!c.getAutoCommit()) c.commit();
        batch(c, "twice", insert, new Object[][] {{1L, "new", 1}, {2L, "new", 1}, {1L, "a0", 1}}, false);
        batch(c, "update", "UPDATE notes SET n = n + ? WHERE user_id = ?", new Object[][] {{1, 1L}, {2, 2L}, {3, 3L}, {4, 99L}}, false);
        batch(c, "delete", "DELETE FROM notes WHERE title = ?", new Object[][] {{"a1"}, {"a2"}, {"none"}}, false);
        batch(c, "labels", "INSERT INTO labels (name) VALUES (?)", new Object[][] {{"x"}, {"y"}}, true);
        if (!c.getAutoCommit()) c.commit();
        try (PreparedStatement s = c.prepareStatement("INSERT INTO notes (user_id, title) VALUES (?, 'one')", Statement.RETURN_GENERATED_KEYS)) {
            s.setLong(1, 3);
            show("all columns", s.executeUpdate(), rows(s.getGeneratedKeys()));
        }
        try (PreparedStatement s = c.prepareStatement("INSERT INTO notes (user_id, title) SELECT * FROM unnest(?::bigint[], ?::text[])")) {
            s.setArray(1, c.createArrayOf("bigint", new Long[] {1L, 2L, 3L, 4L}));
            s.setArray(2, c.createArrayOf("text", new String[] {"u", "u", "u", "u"}));
            show("arrays", s.executeUpdate(), left(c));
        }
        if (!c.getAutoCommit()) c.commit();
    }

    /** Hibernate's pooled optimizer: a value of the sequence stands for the fifty below it. */
    static void pooled(Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            s.execute("DROP SEQUENCE IF EXISTS notes_seq");
            s.execute("CREATE SEQUENCE notes_seq START WITH 100001 INCREMENT BY 50");
        }
        c.setAutoCommit(false);
        long high = 0, next = 1;
        for (int block = 0; block < 3; block++) {
            try (PreparedStatement s = c.prepareStatement("INSERT INTO notes (n, title, user_id, id) VALUES (?, ?, ?, ?)")) {
                for (int n = 0; n < 60; n++) {
                    if (next > high) {
                        high = Long.parseLong(query(c, "select nextval('notes_seq')"));
                        next = high - 49;
                    }
                    s.setInt(1, n);
                    s.setString(2, "pooled " + next);
                    s.setLong(3, n % 8 + 1);
                    s.setLong(4, next++);
                    s.addBatch();
                }
                show("pooled", counts(s.executeBatch()), high);
            }
            c.commit();
        }
        c.setAutoCommit(true);
        show("pooled", query(c, "SELECT count(DISTINCT id), min(id), max(id) FROM notes WHERE title LIKE 'pooled%'"));
    }

    public static void main(String[] arguments) throws Exception {
        Locale.setDefault(Locale.ROOT);
        TimeZone.setDefault(TimeZone.getTimeZone("UTC"));
        for (boolean rewritten : new boolean[] {false, true}) {
            Properties properties = new Properties();
            properties.setProperty("user", "app");
            properties.setProperty("password", "app");
            properties.setProperty("reWriteBatchedInserts", String.valueOf(rewritten));
            System.out.println(rewritten ? "rewritten, in transactions" : "as they are, autocommit");
            try (Connection c = DriverManager.getConnection(arguments[0], properties)) {
                try (Statement s = c.createStatement()) {
                    s.execute(Files.readString(Path.of(arguments[1])));
                }
                c.setAutoCommit(!rewritten);
                run(c);
                c.setAutoCommit(true);
                pooled(c);
            } catch (Exception e) {
                show("broke", e, Arrays.toString(e.getStackTrace()));
            }
        }
    }
}
