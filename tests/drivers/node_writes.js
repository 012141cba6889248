// Bulk writes of node-postgres to a sharded database: `node node_writes.js URL`. The tables are those of `writes.sql`.
'use strict'

const { Client, Pool } = require('pg')
const { from: copyFrom } = require('pg-copy-streams')
const { readFileSync } = require('fs')
const { join } = require('path')
const { Readable } = require('stream')
const { pipeline } = require('stream/promises')

const [url] = process.argv.slice(2)
const show = (label, ...values) => console.log(`  ${label}:`, ...values.map((value) => JSON.stringify(value)))

async function failure(label, promise) {
  try {
    show(label, 'no error', (await promise).rows)
  } catch (e) {
    show(label, e.code, e.message, e.detail, e.constraint, e.table)
  }
}

const left = async (c) => (await c.query('SELECT count(*), sum(n), min(title), max(title) FROM notes')).rows

async function arrays(c) {
  await c.query('INSERT INTO people (id, email) SELECT n, mail FROM unnest($1::int[], $2::text[]) AS x (n, mail)', [[1, 2, 3, 4, 5, 6, 7, 8], [...'abcdefgh']])
  const text = 'INSERT INTO notes (user_id, title, n) SELECT * FROM unnest($1::int[], $2::text[], $3::int[])'
  const rows = Array.from({ length: 2000 }, (_, n) => [(n % 8) + 1, `t${n}`, n])
  const columns = (list) => [0, 1, 2].map((column) => list.map((row) => row[column]))
  show('rows', (await c.query({ name: 'bulk', text, values: columns(rows) })).rowCount, await left(c))
  await failure('again', c.query({ name: 'bulk', text, values: columns([[3, 'new', 1], [4, 't3', 1]]) }))
  await failure('other', c.query({ name: 'bulk', text, values: columns([[3, 'new', 1], [99, 'new', 1]]) }))
  await failure('negative', c.query({ name: 'negative', text: `${text} ON CONFLICT DO NOTHING`, values: columns([[3, 'new', 1], [4, 't3', 1]]) }))
  const upsert = `${text} ON CONFLICT (user_id, title) DO UPDATE SET n = excluded.n RETURNING user_id, title, n`
  show('upsert', (await c.query(upsert, columns([[1, 't0', 90], [2, 'x', 91], [3, 't2', 92]]))).rows)
  show('none', (await c.query(text, [[], [], []])).rowCount, await left(c))
}

async function values(c) {
  const marks = (count, width) => Array.from({ length: count }, (_, n) => `(${Array.from({ length: width }, (_, m) => `$${n * width + m + 1}`)})`)
  const rows = Array.from({ length: 600 }, (_, n) => [(n % 8) + 1, `v${n}`, n, { n }])
  const inserted = await c.query(`INSERT INTO notes (user_id, title, n, facts) VALUES ${marks(600, 4)} RETURNING id, title`, rows.flat())
  show('values', inserted.rowCount, inserted.rows.every((row, n) => row.title === `v${n}`), inserted.rows.every((row, n) => n === 0 || BigInt(row.id) > BigInt(inserted.rows[n - 1].id)))
  show('any', (await c.query('UPDATE notes SET n = n + 1 WHERE user_id = ANY ($1) AND title LIKE $2', [[1, 3, 5], 'v%'])).rowCount, (await c.query('DELETE FROM notes WHERE id = ANY ($1::int[])', [inserted.rows.slice(0, 50).map((row) => row.id)])).rowCount)
  show('labels', (await c.query('INSERT INTO labels (name) SELECT unnest($1::text[]) ON CONFLICT (name) DO UPDATE SET uses = labels.uses + 1 RETURNING id, name', [['a', 'b', 'c']])).rows)
  show('links', (await c.query('INSERT INTO people_labels (user_id, label_id) SELECT p.id, l.id FROM people p CROSS JOIN labels l WHERE p.email = ANY ($1) AND l.name = ANY ($2)', [['a', 'd'], ['b', 'c']])).rowCount)
  show('links', (await c.query('SELECT user_id, label_id FROM people_labels ORDER BY 1, 2')).rows, await left(c))
}

async function transactions(c) {
  const pool = new Pool({ connectionString: url, max: 4 })
  const transfer = async (n) => {
    const client = await pool.connect()
    try {
      await client.query('BEGIN')
      await client.query('UPDATE people SET version = version - 1 WHERE id = $1', [(n % 4) + 1])
      await client.query('UPDATE people SET version = version + 1 WHERE id = $1', [(n % 4) + 5])
      await client.query(n % 5 ? 'COMMIT' : 'ROLLBACK')
    } finally {
      client.release()
    }
  }
  await Promise.all(Array.from({ length: 40 }, (_, n) => transfer(n)))
  await pool.end()
  show('people', (await c.query('SELECT id, version FROM people ORDER BY id')).rows)
  const into = c.query(copyFrom('COPY notes (user_id, title, n) FROM STDIN (FORMAT csv)'))
  await pipeline(Readable.from(Array.from({ length: 1000 }, (_, n) => `${(n % 8) + 1},"c ""${n}""",${n}\n`)), into)
  show('copied', into.rowCount, await left(c))
}

async function main() {
  const c = new Client({ connectionString: url })
  await c.connect()
  await c.query(readFileSync(join(__dirname, 'writes.sql'), 'utf8'))
  for (const run of [arrays, values, transactions]) {
    console.log(run.name)
    try {
      await run(c)
    } catch (e) {
      show('broke', e.code, e.stack)
    }
  }
  await c.end()
}

main().catch((e) => {
  console.error(e)
  process.exit(1)
})
