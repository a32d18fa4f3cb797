/** What a deployment does to a system at work: workers of two versions side by side, and a schema that changes under load. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { migrate } from '../../worker/db/migrate.js'
import { MIGRATIONS_DIR } from '../../worker/db/sources.js'
import { freshFolder } from '../support/services/index.js'
import { waitFor } from '../support/wait-for.js'
import { checkHistory, expectSound } from './lab/checker.js'
import { type Lab, type LabProcess, openLab } from './lab/lab.js'
import { createWorkload, type Workload } from './lab/workload.js'

// Processes start, servers recover and leases pass, on a machine that may be several times too busy.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 })

let lab: Lab
let standing: LabProcess[] = []
let workload: Workload
beforeAll(async () => {
	lab = await openLab()
	standing = await Promise.all([lab.startFunctions(), lab.startRelay()])
	workload = createWorkload(lab, { seed: 1 })
})
afterEach(() => lab.rest(standing))
afterAll(() => lab.close())

const startVersion = (version: '1' | '2'): Promise<LabProcess> =>
	lab.startWorker({
		workflows: 'test/faults/lab/workflows-rolling.ts',
		environment: { ROLLING_VERSION: version },
	})

const waits = (runId: string): Promise<true> =>
	waitFor('the run to wait', async () => {
		const [run] = await lab.rows<{ status: string }>(
			'select status from flowcraft_statuses where run_id = $1',
			runId,
		)
		return run?.status === 'awaiting'
	})

/** What its nodes returned. */
async function outputs(runId: string): Promise<Record<string, string>> {
	const rows = await lab.rows<{ node_id: string; output: string }>(
		`select node_id, output from flowcraft_nodes where run_id = $1 and node_id <> 'wait'`,
		runId,
	)
	return Object.fromEntries(
		rows.map((row) => [row.node_id, (JSON.parse(row.output) as string).slice(0, 2)]),
	)
}

test('during a rolling deployment every run is executed by workers of its own version', async () => {
	const first = await startVersion('1')
	const old = await Promise.all([1, 2, 3].map(() => workload.startOne('lab-rolling')))
	await Promise.all(old.map(({ runId }) => waits(runId)))

	const second = await startVersion('2')
	const fresh = await Promise.all([1, 2, 3].map(() => workload.startOne('lab-rolling')))
	await workload.start(14)
	await Promise.all(fresh.map(({ runId }) => waits(runId)))

	// The last old worker goes while old runs wait: nobody left can run what follows their wait.
	await first.stop()
	await workload.resumeWaiting()
	await second.process.waitForLine(/This worker cannot run a node/, { deadlineMs: 60_000 })
	for (const { runId } of fresh)
		await waitFor(
			'the new runs to end',
			async () => Object.keys(await outputs(runId).catch(() => ({}))).length === 3,
		)
	await startVersion('1')
	await workload.finish()
	expectSound(await checkHistory(lab, { ledger: workload.ledger, minimumCompleted: 18 }))
	for (const { runId } of old) expect(await outputs(runId)).toEqual({ a: 'v1', b: 'v1' })
	for (const { runId } of fresh) expect(await outputs(runId)).toEqual({ a: 'v2', b: 'v2', c: 'v2' })

	// An old worker that starts again does not turn the clock back.
	const latest = await workload.startOne('lab-rolling')
	await workload.finish()
	expect(await outputs(latest.runId)).toEqual({ a: 'v2', b: 'v2', c: 'v2' })
})

test('a migration applied while load runs: it waits its turn, and nothing fails by it', async () => {
	await lab.startWorker()
	const before = workload.ledger.length
	const loading = workload.start(84, { parallel: 8 })
	await waitFor('the load to be on its way', () => workload.ledger.length > before + 14)
	await migrateFurther()
	const during = workload.ledger.length - before
	await loading
	console.log(`the migration was applied after ${during} of 84 starts`)
	await workload.finish()
	expectSound(
		await checkHistory(lab, {
			ledger: workload.ledger,
			minimumCompleted: Math.floor(workload.ledger.length * 0.9),
		}),
	)
	expect(await lab.rows('select lab_column from flowcraft_nodes limit 1')).toHaveLength(1)
})

/** What the next release might bring: columns of the busiest tables, an index, and every function installed anew. */
async function migrateFurther(): Promise<void> {
	const folder = join(freshFolder('migrations'), 'migrations')
	cpSync(MIGRATIONS_DIR, folder, { recursive: true })
	const journalFile = join(folder, 'meta/_journal.json')
	const journal = JSON.parse(readFileSync(journalFile, 'utf8')) as {
		entries: { idx: number; tag: string; when: number; version: string; breakpoints: boolean }[]
	}
	const functions = journal.entries.at(-1)
	if (functions === undefined) throw new Error('There is no migration yet')
	journal.entries.push({ ...functions, idx: functions.idx + 1, tag: '9999_next', when: Date.now() })
	writeFileSync(journalFile, JSON.stringify(journal))
	writeFileSync(
		join(folder, '9999_next.sql'),
		[
			'ALTER TABLE flowcraft_statuses ADD COLUMN lab_column text;',
			'ALTER TABLE flowcraft_nodes ADD COLUMN lab_column text;',
			'ALTER TABLE flowcraft_outbox ADD COLUMN lab_column int DEFAULT 7;',
			'CREATE INDEX lab_index ON flowcraft_nodes (lab_column);',
			readFileSync(join(folder, `${functions.tag}.sql`), 'utf8'),
		].join('\n--> statement-breakpoint\n'),
	)
	await migrate(lab.databaseUrl, folder)
}
