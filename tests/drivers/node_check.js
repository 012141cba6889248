// What node-postgres sees of a server: `node node_check.js URL whole|keyed` prints it.
'use strict'

const { Client, Pool, types } = require('pg')
const Cursor = require('pg-cursor')
const { from: copyFrom, to: copyTo } = require('pg-copy-streams')
const { Readable } = require('stream')
const { pipeline } = require('stream/promises')

const [url, part] = process.argv.slice(2)
const checks = { whole: [], keyed: [] }
const check = (list, run) => checks[list].push(run)
const show = (label, ...values) => console.log(`  ${label}:`, ...values.map((value) => JSON.stringify(value)))

async function failure(label, promise) {
  try {
    show(label, 'no error', (await promise).rows)
  } catch (e) {
    show(label, e.code, e.severity, e.message, e.detail, e.hint, e.position, e.constraint, e.table, e.column)
  }
}

async function connect(options = {}) {
  const client = new Client({ connectionString: url, ...options })
  client.on('error', (e) => show('connection lost', e.code))
  await client.connect()
  return client
}

check('whole', async function simple(c) {
  const one = await c.query("SELECT 1 AS a, 'x' AS b, NULL AS c, 1.5::numeric AS d, 2::int8 AS e")
  show('row', one.rows, one.rowCount, one.command, one.fields.map((f) => [f.name, f.dataTypeID, f.format]))
  show('array', (await c.query({ text: 'SELECT 1, 2', rowMode: 'array' })).rows)
  const many = await c.query("SELECT 1 AS a; SELECT 'b' AS b; CREATE TEMP TABLE node_temp (a int); INSERT INTO node_temp VALUES (1), (2)")
  show('many', many.map((r) => [r.command, r.rowCount, r.rows]))
  show('temp', (await c.query('SELECT count(*) FROM node_temp')).rows)
  show('empty', (await c.query('')).rows, (await c.query(';')).rows)
  await c.query('DROP TABLE node_temp')
})

check('whole', async function parameters(c) {
  const values = [1, 'it\'s "ż" \\', null, true, new Date(Date.UTC(2024, 1, 29, 12)), Buffer.from([0, 255, 39]), [1, 2, 3], ['a', null, 'b,"c"'], { a: [1] }]
  const casts = ['int', 'text', 'text', 'bool', 'timestamptz', 'bytea', 'int[]', 'text[]', 'jsonb']
  const columns = casts.map((cast, n) => `$${n + 1}::${cast} AS v${n}`).join(', ')
  show('values', (await c.query(`SELECT ${columns}`, values)).rows)
  show('binary', (await c.query({ text: 'SELECT $1::int AS a, $2::text AS b, $3::bool AS c', values: [7, 'b', false], binary: true })).rows)
  show('bytes', (await c.query('SELECT length($1::bytea), $2::bytea', [Buffer.alloc(100000), Buffer.from('z')])).rows)
  const marks = Array.from({ length: 1600 }, (_, n) => `$${n + 1}::int`)
  show('many', Object.values((await c.query(`SELECT ${marks.map((mark, n) => `${mark} AS v${n}`)}`, marks.map((_, n) => n))).rows[0]).length)
})

check('whole', async function prepared(c) {
  await c.query('CREATE TABLE node_prepared (a int PRIMARY KEY, b text)')
  for (let n = 0; n < 6; n++) {
    await c.query({ name: 'node_insert', text: 'INSERT INTO node_prepared VALUES ($1, $2)', values: [n, `row ${n}`] })
  }
  const select = (a) => ({ name: 'node_select', text: 'SELECT * FROM node_prepared WHERE a = $1', values: [a] })
  for (let n = 0; n < 7; n++) show('row', (await c.query(select(n))).rows)
  const other = await connect()
  show('same name, other text', (await other.query({ name: 'node_select', text: 'SELECT $1::text AS other', values: ['x'] })).rows)
  show('mine', (await c.query(select(1))).rows)
  show('together', (await Promise.all([1, 2, 3, 4].map((n) => c.query(select(n))))).map((r) => r.rows))
  await failure('duplicate', c.query({ name: 'node_insert', text: 'INSERT INTO node_prepared VALUES ($1, $2)', values: [1, 'x'] }))
  show('after', (await c.query(select(2))).rows)
  show('portions', (await c.query({ text: 'SELECT a FROM node_prepared ORDER BY a', rows: 2, values: [] })).rows)
  await other.end()
  await c.query('DROP TABLE node_prepared')
})

check('whole', async function errors(c) {
  await c.query('CREATE TABLE node_errors (a int PRIMARY KEY, b text NOT NULL)')
  for (const text of ['SELEC', 'SELECT * FROM node_nowhere', 'SELECT 1/0', "INSERT INTO node_errors VALUES (1, NULL)", 'SELECT wrong FROM node_errors']) {
    await failure(text, c.query(text))
    await failure(`${text} (prepared)`, c.query({ name: text, text, values: [] }))
    await failure(`${text} (extended)`, c.query({ text, values: [], queryMode: 'extended' }))
  }
  await failure('wrong value', c.query('SELECT $1::int', ['x']))
  await c.query('BEGIN')
  await failure('in a transaction', c.query('SELECT 1/0'))
  await failure('failed', c.query('SELECT 1'))
  show('COMMIT', (await c.query('COMMIT')).command)
  await c.query('SET statement_timeout = 30')
  await failure('timeout', c.query('SELECT pg_sleep(60)'))
  await c.query('SET statement_timeout = DEFAULT')
  show('still', (await c.query('SELECT count(*) FROM node_errors')).rows)
  await c.query('DROP TABLE node_errors')
  const lost = await connect()
  const ended = new Promise((resolve) => lost.on('end', resolve))
  await failure('terminated', lost.query('SELECT pg_terminate_backend(pg_backend_pid())'))
  await ended
})

check('whole', async function messages(c) {
  c.on('notice', (n) => show('notice', n.severity, n.message, n.hint))
  await c.query("DO $$ BEGIN RAISE NOTICE 'hello' USING HINT = 'hint'; END $$")
  const heard = new Promise((resolve) => {
    const list = []
    c.on('notification', (n) => list.push([n.channel, n.payload]) === 2 && resolve(list))
  })
  await c.query('LISTEN node_channel')
  const other = await connect()
  await other.query("NOTIFY node_channel, 'one'")
  await other.query("SELECT pg_notify('node_channel', $1)", ['two'])
  show('heard', await heard)
  await other.end()
})

check('whole', async function transactions(c) {
  await c.query('CREATE TABLE node_t (a int)')
  await c.query('BEGIN')
  await c.query('INSERT INTO node_t VALUES ($1)', [1])
  await c.query('SAVEPOINT s')
  await failure('error', c.query('INSERT INTO node_t VALUES ($1)', ['x']))
  await c.query('ROLLBACK TO s')
  await c.query('INSERT INTO node_t VALUES ($1)', [2])
  show('in', (await c.query('SELECT a FROM node_t ORDER BY a')).rows)
  await c.query('COMMIT')
  await c.query('BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY')
  await failure('read only', c.query('INSERT INTO node_t VALUES (3)'))
  await c.query('ROLLBACK')
  const queued = [c.query('BEGIN'), c.query('INSERT INTO node_t VALUES (9)'), c.query('ROLLBACK'), c.query('SELECT count(*) FROM node_t')]
  show('queued', (await Promise.all(queued)).map((r) => [r.command, r.rows]))
  await c.query('DROP TABLE node_t')
})

check('whole', async function copy(c) {
  await c.query('CREATE TABLE node_copy (a int, b text)')
  const lines = Array.from({ length: 20000 }, (_, n) => `${n}\tline ${n}\n`)
  const into = c.query(copyFrom('COPY node_copy FROM STDIN'))
  await pipeline(Readable.from(lines), into)
  show('in', into.rowCount)
  await failure('bad', pipeline(Readable.from(['1\tx\n', 'y\tz\n']), c.query(copyFrom('COPY node_copy FROM STDIN'))))
  const given = c.query(copyFrom('COPY node_copy FROM STDIN'))
  async function* halted() {
    yield '7\tx\n'
    throw new Error('given up')
  }
  await failure('given up', pipeline(Readable.from(halted()), given))
  let bytes = 0
  for await (const chunk of c.query(copyTo('COPY (SELECT * FROM node_copy ORDER BY a) TO STDOUT (FORMAT csv)'))) bytes += chunk.length
  show('out', bytes, (await c.query('SELECT count(*), sum(a) FROM node_copy')).rows)
  await c.query('DROP TABLE node_copy')
})

check('whole', async function cursors(c) {
  await c.query('BEGIN')
  const cursor = c.query(new Cursor('SELECT n, n * $1::int AS m FROM generate_series(1, 20) n', [3]))
  show('read', await cursor.read(3), (await cursor.read(5)).length, (await cursor.read(100)).length, await cursor.read(1))
  const left = c.query(new Cursor('SELECT generate_series(1, 1000) AS n'))
  show('first', await left.read(1))
  await left.close()
  await failure('bad', c.query(new Cursor('SELECT 1 / $1::int', [0])).read(1))
  await c.query('ROLLBACK')
  show('after', (await c.query('SELECT 1 AS a')).rows)
})

check('whole', async function cancelling(c) {
  for (let round = 0; round < 3; round++) {
    const slow = c.query('SELECT pg_sleep(60)')
    const other = await connect()
    const running = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
    while ((await other.query(running)).rowCount === 0);
    new Client({ connectionString: url }).cancel(c, c.activeQuery ?? c._activeQuery ?? slow)
    await failure('cancelled', slow)
    await other.end()
  }
  show('after', (await c.query('SELECT 2 AS a')).rows)
})

check('whole', async function largeObjects(c) {
  await c.query('BEGIN')
  const oid = (await c.query('SELECT lo_creat(-1) AS oid')).rows[0].oid
  const fd = (await c.query('SELECT lo_open($1, x\'60000\'::int) AS fd', [oid])).rows[0].fd
  const data = Buffer.from('large '.repeat(5000))
  show('written', (await c.query('SELECT lowrite($1, $2) AS n', [fd, data])).rows)
  await c.query('SELECT lo_lseek($1, 6, 0)', [fd])
  show('read', (await c.query('SELECT loread($1, 12) AS d', [fd])).rows[0].d.toString())
  await c.query('COMMIT')
  show('length', (await c.query('SELECT length(lo_get($1)) AS n', [oid])).rows)
  show('gone', (await c.query('SELECT lo_unlink($1)', [oid])).rows)
})

check('whole', async function pool() {
  const pool = new Pool({ connectionString: url, max: 9, application_name: 'node pool' })
  const sums = await Promise.all(Array.from({ length: 200 }, (_, n) => pool.query('SELECT $1::int * 2 AS n', [n])))
  show('sums', sums.reduce((sum, r) => sum + r.rows[0].n, 0))
  const work = async (n) => {
    const c = await pool.connect()
    try {
      await c.query('BEGIN')
      await c.query("SELECT set_config('node.mine', $1, true)", [String(n)])
      await c.query('SELECT pg_sleep(0.002)')
      const { rows } = await c.query("SELECT current_setting('node.mine') AS mine")
      await c.query(n % 3 ? 'COMMIT' : 'ROLLBACK')
      return rows[0].mine
    } finally {
      c.release()
    }
  }
  show('mine', await Promise.all(Array.from({ length: 40 }, (_, n) => work(n))))
  show('application', (await pool.query('SHOW application_name')).rows)
  show('rows', (await pool.query("SELECT g, repeat('x', 100) AS x FROM generate_series(1, 30000) g")).rows.length)
  await pool.end()
})

check('keyed', async function keyed(c) {
  const keys = {
    by_int: ['1', '2', '3', '5', '1099511627776', '-4'],
    by_text: ['', 'ann', "o'neil", 'żuk', 'w'.repeat(300)],
    by_uuid: [0, 1, 2, 3, 4].map((n) => `00000000-0000-4000-8000-00000000000${n}`),
  }
  for (const [table, values] of Object.entries(keys)) {
    for (const key of values) {
      show('insert', (await c.query(`INSERT INTO ${table} (user_id, n) VALUES ($1, $2) RETURNING *`, [key, 1])).rows)
      const update = { name: `update ${table}`, text: `UPDATE ${table} SET n = n + $1 WHERE user_id = $2`, values: [5, key] }
      show('update', (await c.query(update)).rowCount)
      show('select', (await c.query({ text: `SELECT n FROM ${table} WHERE user_id = $1`, values: [key], binary: true })).rows)
      await failure('again', c.query(`INSERT INTO ${table} (user_id, n) VALUES ($1, $2)`, [key, 1]))
      const literal = c.escapeLiteral(key)
      show('literal', (await c.query(`SELECT n, user_id FROM ${table} WHERE user_id = ${literal}`)).rows)
    }
    const select = (key) => c.query({ name: `select ${table}`, text: `SELECT * FROM ${table} WHERE user_id = $1`, values: [key] })
    show('queued', (await Promise.all(values.map(select))).map((r) => r.rows))
    for (const key of values) {
      await c.query('BEGIN')
      show('delete', (await c.query(`DELETE FROM ${table} WHERE user_id = $1`, [key])).rowCount)
      await c.query('COMMIT')
    }
  }
})

async function main() {
  types.setTypeParser(20, String)
  for (const run of checks[part]) {
    console.log(run.name)
    const c = await connect()
    try {
      await run(c)
    } catch (e) {
      show('broke', e.code, e.stack)
    }
    await c.end()
  }
}

main().catch((e) => {
  console.error(e)
  process.exit(1)
})
