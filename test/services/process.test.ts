import { existsSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { processStart } from '../support/process-start.js'
import { spawnProcess, spawnProgram } from '../support/process.js'
import { waitFor } from '../support/wait-for.js'

const SLEEPER = 'test/support/sleeper.main.ts'

describe('a spawned process', () => {
	test('runs the real program, is ready when its line appears, and dies of SIGKILL', async () => {
		const running = await spawnProcess({ entry: SLEEPER, readyLine: /^sleeping$/ })
		expect(processStart(running.pid)).toBeDefined()
		expect(running.exit).toBeUndefined()
		await running.kill()
		expect(await running.exited).toEqual({ code: null, signal: 'SIGKILL' })
		expect(processStart(running.pid)).toBeUndefined()
	})

	test('knows nothing of the variables around it but what it is given', async () => {
		process.env['DATABASE_URL'] = 'postgres://production'
		const running = await spawnProcess({ entry: SLEEPER, env: { QUEUE_NAME: 'mine' } })
		const variables = await running.waitForLine(/^knows /)
		delete process.env['DATABASE_URL']
		await running.kill()

		expect(variables).toContain('QUEUE_NAME')
		expect(variables).toContain('PATH')
		expect(variables).not.toMatch(/DATABASE_URL|VITEST/)
	})

	test('stops on SIGTERM', async () => {
		const running = await spawnProcess({ entry: SLEEPER, readyLine: 'sleeping' })
		expect(await running.stop()).toEqual({ code: null, signal: 'SIGTERM' })
	})

	test('is killed and reported with what it said when it does not stop in time', async () => {
		const running = await spawnProcess({ entry: SLEEPER, env: { STUBBORN: '1' }, readyLine: 'sleeping' })
		await expect(running.stop({ deadlineMs: 200 })).rejects.toThrow(
			/did not stop within 200 ms.*not yet/s,
		)
		expect(running.exit?.signal).toBe('SIGKILL')
	})

	test('is reported with what it said when it ends before it is ready', async () => {
		const failing = spawnProgram({
			name: 'failing',
			command: process.execPath,
			args: ['-e', 'console.error("no such thing"); process.exit(3)'],
		})
		await expect(failing.waitForLine('ready')).rejects.toThrow(
			/ended \(exit code 3\) before it printed ready.*no such thing/s,
		)
		expect(await failing.exited).toEqual({ code: 3, signal: null })
	})

	test('is reported when there is no such program', async () => {
		const missing = spawnProgram({ name: 'missing', command: '/no/such/program', args: [] })
		await expect(missing.waitForLine('ready')).rejects.toThrow(/could not be started.*ENOENT/s)
		await missing.stop()
	})
})

test(
	'nothing of what a killed process had started is left: no process, no folder',
	{ timeout: 60_000 },
	async () => {
		const owner = await spawnProcess({ entry: 'test/support/server-owner.main.ts' })
		const line = await owner.waitForLine(/^owns /)
		const { folder, pids } = JSON.parse(line.slice('owns '.length)) as { folder: string; pids: number[] }
		expect(pids.map(processStart)).not.toContain(undefined)
		expect(existsSync(folder)).toBe(true)

		await owner.kill('SIGKILL')
		await waitFor('the processes to end', () => pids.filter((pid) => processStart(pid) !== undefined), {
			until: (alive) => alive.length === 0,
		})
		await waitFor('the folder to go', () => !existsSync(folder))
	},
)

describe('waiting for a condition', () => {
	test('answers with the first value that is the awaited one', async () => {
		let n = 0
		expect(await waitFor('five', () => ++n, { until: (value) => value === 5, everyMs: 1 })).toBe(5)
	})

	test('says what it last saw when the deadline passes', async () => {
		await expect(
			waitFor('the run to end', () => ({ status: 'running' }), {
				until: (run) => run.status === 'done',
				deadlineMs: 50,
			}),
		).rejects.toThrow(
			/^waited 50 ms for the run to end; after \d+ tries the last answer was { status: 'running' }$/,
		)
	})

	test('says what was thrown last when the deadline passes', async () => {
		const refuse = (): never => {
			throw new Error('connection refused')
		}
		await expect(waitFor('an answer', refuse, { deadlineMs: 50 })).rejects.toThrow(
			/it threw connection refused$/,
		)
	})

	test('does not hang with its question', async () => {
		await expect(waitFor('an answer', () => new Promise(() => {}), { deadlineMs: 50 })).rejects.toThrow(
			'the first answer never came',
		)
	})
})
