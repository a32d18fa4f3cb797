/** A minute of the soak (`npm run soak`) with each run of the tests. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openSoak, soak } from './soak/soak.js'
import { verdictTable } from './soak/verdict.js'

let opened: Awaited<ReturnType<typeof openSoak>>
beforeAll(async () => {
	// RabbitMQ takes too long to boot for its death to be worth it here; the long soak kills it.
	opened = await openSoak({ postgres: 'private', redis: 'private' })
})
afterAll(() => opened.lab.close())

const SEED = Number(process.env['SEED'] ?? 1)
const DURATION_MS = 50_000

test(
	'a minute of mixed workflows under all kinds of faults loses nothing and does nothing twice',
	async () => {
		const verdict = await soak(opened, {
			seed: SEED,
			durationMs: DURATION_MS,
			maxLiveRuns: 60,
			maxPauseMs: 2_000,
		})
		console.log(verdictTable(verdict))
		expect(verdict.violations).toEqual([])
		expect(verdict.counts.completed).toBeGreaterThan(20)
		expect([...verdict.faults.values()].reduce((sum, count) => sum + count, 0)).toBeGreaterThan(10)
	},
	DURATION_MS + 400_000,
)
