import { expect, test } from 'vitest'
import { createCore, flow } from '/work/main/test/support/core.js'
import { sweepGenerations } from '/work/main/src/outbox/sweep.js'
import { retryRun } from '/work/main/src/run/retry.js'
import { pauseRun, unpauseRun } from '/work/main/src/run/pause.js'
import { listRunEvents } from '/work/main/src/run/run-events.js'
import { listNodes } from '/work/main/src/run/node-history.js'
test('perf', { timeout: 120000 }, async () => {
	const core = await createCore()
	await core.register(flow('wide', [], { a: { config: { fallback: 'f' } }, f: {} }))
	const runId = await core.start('wide')
	await core.rows(`insert into flowcraft_nodes (run_id, node_id, recovers, state, finished_at, finished_seq, claimed_at, error) select $1, 'n' || i, '', 'failed', now(), 1, now(), '{"message":"x"}' from generate_series(1, 10000) i`, runId)
	await core.rows(`insert into flowcraft_nodes (run_id, node_id, recovers, state, finished_at, finished_seq, claimed_at, error) select $1, 'f', '["n' || i || '"]', 'failed', now(), 1, now(), '{"message":"x"}' from generate_series(1, 5000) i`, runId)
	await core.rows(`update flowcraft_statuses set failed_count = 15000 where run_id = $1`, runId)
	const time = async (what: string, f: () => Promise<unknown>) => { const t = performance.now(); const r = await f(); console.log(what, Math.round(performance.now() - t), JSON.stringify(r)?.length) }
	await time('nodes', () => listNodes(core.sql, runId, { limit: 100 }))
	await time('events', () => listRunEvents(core.sql, runId, { limit: 500 }))
	await time('retry', () => retryRun(core.sql, runId))
	await time('pause', () => pauseRun(core.sql, runId))
	await time('unpause', () => unpauseRun(core.sql, runId))
	expect(await core.violations()).toEqual([])
	const loop = await core.start('wide')
	const enc = `chr(96 + length(i::text)) || i`
	for (const n of ['x','y','z']) await core.rows(`insert into flowcraft_nodes (run_id, node_id, generation, state, finished_at, finished_seq, input_node, input_generation, input_recovers) select $1, '${n}', ${enc}, 'completed', now(), 1, 'x', ${enc}, '' from generate_series(1, 20000) i`, loop)
	for (let i = 0; i < 5; i++) await time('sweep', () => sweepGenerations(core.sql, '', 500, 100, 20000).then((r) => r.deleted))
	await core.drop()
})
