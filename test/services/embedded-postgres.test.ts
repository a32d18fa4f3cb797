import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import postgres from 'postgres'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { noLogger } from '../../src/ports/logger.js'
import { isAlive, readPostmaster, shutDown } from '../../worker/embedded/cluster.js'
import { startEmbeddedPostgres } from '../../worker/embedded/postgres.js'
import { freshFolder } from '../support/cleanup.js'
import { type RunningProcess, spawnProcess, spawnProgram } from '../support/process.js'
import { waitFor } from '../support/wait-for.js'

const ENTRY = 'test/support/embedded-postgres.main.ts'

let dataDir: string
const owners: RunningProcess[] = []
beforeEach(() => {
	dataDir = join(freshFolder('embedded'), 'a folder')
})

/** Whatever a test left running in its folder: the owners first, they would start their server again. */
afterEach(async () => {
	await Promise.all(owners.splice(0).map((owner) => owner.kill()))
	const left = await readPostmaster(join(dataDir, 'postgres'))
	if (left !== undefined) await shutDown(left.pid)
	rmSync(dirname(dataDir), { recursive: true, force: true })
})

async function own(): Promise<RunningProcess> {
	const owner = await spawnProcess({ entry: ENTRY, env: { DATA_DIR: dataDir } })
	owners.push(owner)
	return owner
}

async function urlOf(owner: RunningProcess): Promise<string> {
	return (await owner.waitForLine(/^url /)).slice('url '.length)
}

/** Whether somebody holds an advisory lock on this server: only the owner does. */
async function isOwned(url: string): Promise<boolean> {
	const sql = postgres(url, { max: 1, connect_timeout: 5, fetch_types: false, onnotice: () => {} })
	try {
		const rows = await sql`select from pg_locks where locktype = 'advisory' and granted`
		return rows.length > 0
	} finally {
		await sql.end()
	}
}

/** Adds a row and answers how many there are. */
async function addRow(url: string): Promise<number> {
	// The driver leaves the rejection of its own query for types unhandled when the server dies under it.
	const sql = postgres(url, { max: 1, connect_timeout: 5, fetch_types: false, onnotice: () => {} })
	try {
		await sql`create table if not exists kept (n int)`
		await sql`insert into kept values (1)`
		const [row] = await sql<{ n: number }[]>`select count(*)::int as n from kept`
		return row?.n ?? -1
	} finally {
		await sql.end()
	}
}

test('keeps everything over an orderly stop, and its URL stays the same', async () => {
	const first = await startEmbeddedPostgres({ dataDir, log: noLogger })
	expect(await addRow(first.url)).toBe(1)
	await first.stop()
	await first.stop()
	await expect(addRow(first.url)).rejects.toThrow('ECONNREFUSED')

	const second = await startEmbeddedPostgres({ dataDir, log: noLogger })
	expect(second.url).toBe(first.url)
	expect(await addRow(second.url)).toBe(2)
	await second.stop()
})

test('reopens with every row after SIGKILL of its Node process, without the orphan', async () => {
	const first = await own()
	expect(await addRow(await urlOf(first))).toBe(1)
	await first.kill('SIGKILL')
	const orphan = await readPostmaster(join(dataDir, 'postgres'))
	expect(orphan !== undefined && isAlive(orphan.pid)).toBe(true)

	const second = await own()
	expect(await addRow(await urlOf(second))).toBe(2)
	expect(orphan !== undefined && isAlive(orphan.pid)).toBe(false)
	expect(second.lines.join('\n')).toContain(
		'stopping the embedded Postgres that an earlier process left behind',
	)
	expect(await second.stop()).toEqual({ code: 0, signal: null })
	expect(await readPostmaster(join(dataDir, 'postgres'))).toBeUndefined()
})

test('says at once that a folder cannot be made, and names it', async () => {
	const elsewhere = startEmbeddedPostgres({ dataDir: '/proc/no/such', log: noLogger })
	await expect(elsewhere).rejects.toThrow('The data cannot be kept in /proc/no/such: ENOENT')
	writeFileSync(join(dirname(dataDir), 'file'), '')
	const inFile = startEmbeddedPostgres({ dataDir: join(dirname(dataDir), 'file', 'x'), log: noLogger })
	await expect(inFile).rejects.toThrow('Set DATA_DIR to another folder.')
})

test('refuses a second process on the same folder in one sentence, and the first goes on', async () => {
	const first = await own()
	const url = await urlOf(first)
	const second = await own()
	expect(await second.exited).toEqual({ code: 1, signal: null })
	expect(second.lines.join('\n')).toMatch(
		/^EmbeddedPostgresError: Another process is using .*a folder; stop it first.*$/,
	)
	expect(await addRow(url)).toBe(1)
})

test(
	'lets exactly one of several processes that start at once have a new folder',
	{ timeout: 60_000 },
	async () => {
		await Promise.all([own(), own(), own()])
		const ended = await Promise.all(
			owners.map((owner) => Promise.race([owner.exited, urlOf(owner).catch(() => owner.exited)])),
		)
		const urls = ended.filter((end) => typeof end === 'string')
		expect(urls).toHaveLength(1)
		expect(await addRow(urls[0] ?? '')).toBe(1)
		await waitFor(
			'the others to end',
			() => owners.filter((owner) => owner.exit === undefined).length === 1,
		)
	},
)

test('comes back on the same port when its server is killed', async () => {
	const server = await startEmbeddedPostgres({ dataDir, log: noLogger })
	expect(await addRow(server.url)).toBe(1)
	const killed = await readPostmaster(join(dataDir, 'postgres'))
	process.kill(killed?.pid ?? 0, 'SIGKILL')
	expect(await waitFor('the server', () => addRow(server.url), { deadlineMs: 20_000 })).toBe(2)
	// The folder is its owner's again once it has its lock back; until then whoever starts first has it.
	await waitFor('the owner to have its lock', () => isOwned(server.url))
	await expect(startEmbeddedPostgres({ dataDir, log: noLogger })).rejects.toThrow(
		'Another process is using',
	)
	await server.stop()
})

test('starts although postmaster.pid names a living stranger, as after a restart of the container', async () => {
	const server = await startEmbeddedPostgres({ dataDir, log: noLogger })
	const file = join(dataDir, 'postgres', 'postmaster.pid')
	const text = readFileSync(file, 'utf8')
	await server.stop()
	// Of the server's own user: strangers of other users do not deceive Postgres.
	const { uid, gid } = statSync(join(dataDir, 'postgres'))
	const stranger = spawnProgram({ name: 'stranger', command: 'sleep', args: ['600'], ids: { uid, gid } })
	writeFileSync(file, text.replace(/^\d+/, String(stranger.pid)))

	const again = await startEmbeddedPostgres({ dataDir, log: noLogger })
	expect(await addRow(again.url)).toBe(1)
	await again.stop()
	await stranger.kill()
})

test('starts on a folder whose first start was killed while it created the data', async () => {
	const first = await own()
	await waitFor(
		'the data to be under way',
		() =>
			existsSync(dataDir) &&
			readdirSync(dataDir, { recursive: true }).some((file) => String(file).endsWith('PG_VERSION')),
		{ everyMs: 2 },
	)
	// With everything that it has started, as when a container is killed.
	process.kill(-first.pid, 'SIGKILL')
	await first.exited
	const second = await own()
	expect(await addRow(await urlOf(second))).toBe(1)
})

test('lets in only who knows the password, which only the owner of the folder can read', async () => {
	const server = await startEmbeddedPostgres({ dataDir, log: noLogger })
	const stranger = new URL(server.url)
	stranger.password = 'guess'
	await expect(addRow(stranger.href)).rejects.toThrow('password authentication failed')
	expect(statSync(join(dataDir, 'postgres-password')).mode & 0o777).toBe(0o600)
	expect(statSync(join(dataDir, 'postgres')).mode & 0o777).toBe(0o700)
	await server.stop()
})

test('says so when the data were written by another version', async () => {
	mkdirSync(join(dataDir, 'postgres'), { recursive: true })
	writeFileSync(join(dataDir, 'postgres', 'PG_VERSION'), '9\n')
	await expect(startEmbeddedPostgres({ dataDir, log: noLogger })).rejects.toThrow(
		/were written by Postgres 9 and this is Postgres \d+/,
	)
})
