import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
	discardDeadLetter,
	type DeadLetter,
	listDeadLetters,
	replayDeadLetter,
} from '../../src/run/dead-letters.js'
import { type Core, createCore, flow } from '../support/core.js'

let core: Core
let worker: string

beforeAll(async () => {
	core = await createCore()
	worker = await core.worker()
	await core.register({ ...flow('one', [], { a: {} }), metadata: { version: '1.2.0' } })
	await core.register(flow('rescued', [], { a: { config: { fallback: 'f' } }, f: {} }))
})
afterEach(async () => {
	expect(await core.violations()).toEqual([])
	await core.rows('update flowcraft_nodes set dead_letter = null where dead_letter is not null')
})
afterAll(() => core.drop())

/** Lets a node end as a dead letter. */
async function die(blueprint = 'one', input = {}): Promise<string> {
	const runId = await core.start(blueprint, input)
	await core.rows('update flowcraft_nodes set crashes = 6 where run_id = $1', runId)
	await core.commit({
		...core.failed(await core.claimed(worker, runId, 'a'), 'Workers died'),
		deadLetter: 'Workers died 6 times',
	})
	return runId
}
const letters = async (): Promise<readonly DeadLetter[]> => (await listDeadLetters(core.sql)).deadLetters
const letterOf = async (runId: string): Promise<DeadLetter> => {
	const found = (await letters()).find((letter) => letter.runId === runId)
	if (found === undefined) throw new Error(`Run ${runId} has no dead letter`)
	return found
}

describe('the list', () => {
	test('has what one needs to understand a dead letter, and no ordinary failure', async () => {
		const ordinary = await core.start('one')
		await core.commit(core.failed(await core.claimed(worker, ordinary, 'a')))
		const runId = await die()
		expect(await letters()).toEqual([
			{
				id: expect.any(String) as string,
				runId,
				nodeId: 'a',
				generation: '0',
				blueprint: 'one',
				version: '1.2.0',
				state: 'failed',
				why: 'Workers died 6 times',
				error: { name: 'Error', message: 'Workers died' },
				attempts: 1,
				crashes: 6,
				since: expect.stringMatching(/^20\d\d-.*Z$/) as string,
			},
		])
	})

	test('is read in pages, newest first', async () => {
		const runIds = [await die(), await die(), await die(), await die(), await die()]
		const listed: string[] = []
		for (
			let cursor: string | undefined, page;
			page === undefined || cursor !== undefined;
			cursor = page.nextCursor
		) {
			page = await listDeadLetters(core.sql, { limit: 2, ...(cursor === undefined ? {} : { cursor }) })
			listed.push(...page.deadLetters.map(({ runId }) => runId))
		}
		expect(listed).toEqual(runIds.toReversed())
		await expect(listDeadLetters(core.sql, { cursor: 'nonsense' })).rejects.toThrow(
			'is not a nextCursor of this list',
		)
	})
})

describe('replaying', () => {
	test('gives the node another attempt, forgets its crashes and takes it off the list', async () => {
		const runId = await die()
		expect(await replayDeadLetter(core.sql, (await letterOf(runId)).id)).toEqual({
			runId,
			status: 'running',
			nodeIds: ['a'],
		})
		expect(await letters()).toEqual([])
		const node = await core.claimed(worker, runId, 'a')
		expect(node).toMatchObject({ attempt: 2, crashes: 0 })
		await core.commit(core.completed(node))
		expect((await core.run(runId)).status).toBe('completed')
	})

	test('of two at once one wins', async () => {
		const { id } = await letterOf(await die())
		const outcomes = await Promise.allSettled([1, 2, 3].map(() => replayDeadLetter(core.sql, id)))
		expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected', 'rejected'])
	})

	test('is refused of a node that its fallback recovers, and of what is no dead letter', async () => {
		const runId = await die('rescued')
		const { id } = await letterOf(runId)
		await expect(replayDeadLetter(core.sql, id)).rejects.toThrow("recovered by its fallback: 'f'")
		await core.commit(core.completed(await core.claimed(worker, runId, 'f', { recovers: '["a"]' })))
		expect(await letterOf(runId)).toMatchObject({ state: 'recovered' })
		await expect(replayDeadLetter(core.sql, id)).rejects.toThrow("Node 'a' has not failed")
		for (const unknown of [
			'nonsense',
			'',
			btoa(JSON.stringify(['x', 'a', '', ''])),
			btoa(JSON.stringify(['x\u0000', 'a', '', ''])),
		]) {
			await expect(replayDeadLetter(core.sql, unknown)).rejects.toThrow('There is no dead letter')
		}
	})
})

describe('discarding', () => {
	test('takes it off the list, keeps the failure, and changes nothing the second time', async () => {
		const runId = await die()
		const { id } = await letterOf(runId)
		const before = await core.run(runId)
		for (let i = 0; i < 2; i++)
			expect(await discardDeadLetter(core.sql, id)).toMatchObject({ runId, nodeId: 'a' })
		expect(await letters()).toEqual([])
		expect(await core.run(runId)).toEqual(before)
		expect((await core.nodes(runId))['a']?.state).toBe('failed')
	})

	test('is refused once the node has another attempt, and of what is no dead letter', async () => {
		const runId = await die()
		const { id } = await letterOf(runId)
		await replayDeadLetter(core.sql, id)
		await expect(discardDeadLetter(core.sql, id)).rejects.toThrow(
			'is no dead letter any more: it is ready',
		)
		await expect(discardDeadLetter(core.sql, 'nonsense')).rejects.toThrow('There is no dead letter')
	})
})
