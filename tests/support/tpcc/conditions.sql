-- 1: a warehouse has taken in what its districts have.
SELECT w_id, w_ytd, sum(d_ytd) FROM warehouse JOIN district ON d_w_id = w_id GROUP BY w_id, w_ytd HAVING w_ytd <> sum(d_ytd);
-- 2: the next order is the one behind the last, which is also the last of the new ones.
SELECT d_w_id, d_id, d_next_o_id, max(o_id) FROM district JOIN orders ON o_w_id = d_w_id AND o_d_id = d_id
    GROUP BY d_w_id, d_id, d_next_o_id HAVING d_next_o_id - 1 <> max(o_id);
SELECT d_w_id, d_id, d_next_o_id, max(no_o_id) FROM district JOIN new_order ON no_w_id = d_w_id AND no_d_id = d_id
    GROUP BY d_w_id, d_id, d_next_o_id HAVING d_next_o_id - 1 <> max(no_o_id);
-- 3: new orders have no gaps.
SELECT no_w_id, no_d_id, count(*) FROM new_order GROUP BY no_w_id, no_d_id HAVING max(no_o_id) - min(no_o_id) + 1 <> count(*);
-- 4: a district has as many lines as its orders say.
SELECT o.w, o.d, o.lines, l.lines FROM
    (SELECT o_w_id AS w, o_d_id AS d, sum(o_ol_cnt) AS lines FROM orders GROUP BY o_w_id, o_d_id) o
    JOIN (SELECT ol_w_id AS w, ol_d_id AS d, count(*) AS lines FROM order_line GROUP BY ol_w_id, ol_d_id) l ON l.w = o.w AND l.d = o.d
    WHERE o.lines <> l.lines;
-- 5: an order without a carrier is a new one, and no other.
SELECT o_w_id, o_d_id, o_id FROM orders LEFT JOIN new_order ON no_w_id = o_w_id AND no_d_id = o_d_id AND no_o_id = o_id
    WHERE (o_carrier_id IS NULL) <> (no_o_id IS NOT NULL);
-- 6: an order has as many lines as it says.
SELECT o_w_id, o_d_id, o_id, o_ol_cnt, count(ol_number) FROM orders
    LEFT JOIN order_line ON ol_w_id = o_w_id AND ol_d_id = o_d_id AND ol_o_id = o_id
    GROUP BY o_w_id, o_d_id, o_id, o_ol_cnt HAVING o_ol_cnt <> count(ol_number);
-- 7: lines are delivered with their order.
SELECT o_w_id, o_d_id, o_id FROM orders JOIN order_line ON ol_w_id = o_w_id AND ol_d_id = o_d_id AND ol_o_id = o_id
    WHERE (ol_delivery_d IS NULL) <> (o_carrier_id IS NULL);
-- 8: a warehouse has taken in what its history tells.
SELECT w_id, w_ytd, sum(h_amount) FROM warehouse JOIN history ON h_w_id = w_id GROUP BY w_id, w_ytd HAVING w_ytd <> sum(h_amount);
-- 9: so has a district.
SELECT d_w_id, d_id, d_ytd, sum(h_amount) FROM district JOIN history ON h_w_id = d_w_id AND h_d_id = d_id
    GROUP BY d_w_id, d_id, d_ytd HAVING d_ytd <> sum(h_amount);
-- 10: a customer owes what was delivered and not paid, wherever it was paid.
SELECT c_w_id, c_d_id, c_id, c_balance FROM customer
    LEFT JOIN (SELECT o_w_id AS w, o_d_id AS d, o_c_id AS c, sum(ol_amount) AS owed FROM orders
        JOIN order_line ON ol_w_id = o_w_id AND ol_d_id = o_d_id AND ol_o_id = o_id
        WHERE ol_delivery_d IS NOT NULL GROUP BY o_w_id, o_d_id, o_c_id) bought ON w = c_w_id AND d = c_d_id AND c = c_id
    LEFT JOIN (SELECT h_c_w_id, h_c_d_id, h_c_id, sum(h_amount) AS paid FROM history
        GROUP BY h_c_w_id, h_c_d_id, h_c_id) payments ON h_c_w_id = c_w_id AND h_c_d_id = c_d_id AND h_c_id = c_id
    WHERE c_balance <> coalesce(owed, 0) - coalesce(paid, 0);
-- 12: and has paid what the balance and the deliveries leave.
SELECT c_w_id, c_d_id, c_id, c_balance, c_ytd_payment FROM customer
    LEFT JOIN (SELECT o_w_id AS w, o_d_id AS d, o_c_id AS c, sum(ol_amount) AS owed FROM orders
        JOIN order_line ON ol_w_id = o_w_id AND ol_d_id = o_d_id AND ol_o_id = o_id
        WHERE ol_delivery_d IS NOT NULL GROUP BY o_w_id, o_d_id, o_c_id) bought ON w = c_w_id AND d = c_d_id AND c = c_id
    WHERE c_balance + c_ytd_payment <> coalesce(owed, 0)
