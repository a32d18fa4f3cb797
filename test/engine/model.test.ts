/**
 * Random histories: starts, claims, commits, cancels, pauses, retries, resumes, events, deaths, losses and sweeps,
 * several at once, on the real database. After each step nothing may contradict itself, whatever came first; in the end every run comes to its end.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ClaimedNode, claimNodes, releaseNodes } from '../../src/claim/claim.js'
import { commitNodes, type NodeCommit } from '../../src/commit/commit.js'
import { sweepLost, sweepRuns, sweepWorkers } from '../../src/outbox/sweep.js'
import { keyText, type NodeKey } from '../../src/plan/node-key.js'
import { cancelRun } from '../../src/run/cancel.js'
import { sendEvent } from '../../src/run/events.js'
import { pauseRun, unpauseRun } from '../../src/run/pause.js'
import { resumeRun } from '../../src/run/resume.js'
import { retryRun } from '../../src/run/retry.js'
import { ConflictError } from '../../src/errors.js'
import { type Core, createCore, flow } from '../support/core.js'
import { testSize } from '../support/size.js'

const HISTORIES = testSize('MODEL_HISTORIES', { small: 30, full: 300 })

let core: Core

const BLUEPRINTS = ['chain', 'diamond', 'wide', 'any', 'rescued', 'nested', 'deep', 'deep', 'deep']

beforeAll(async () => {
	core = await createCore()
	const sub = (blueprintId: string) => ({ uses: 'subflow', params: { blueprintId } })
	await core.register(
		flow('chain', [
			['a', 'b'],
			['b', 'c'],
		]),
	)
	await core.register(
		flow('diamond', [
			['a', 'b'],
			['a', 'c'],
			['b', 'd'],
			['c', 'd'],
			['d', 'e'],
		]),
	)
	await core.register(
		flow('wide', [
			['a', 'j'],
			['b', 'j'],
			['c', 'j'],
			['d', 'j'],
			['a', 'k'],
			['d', 'k'],
		]),
	)
	await core.register(
		flow(
			'any',
			[
				['a', 'j'],
				['b', 'j'],
				['c', 'j'],
				['j', 'k'],
			],
			{ j: { config: { joinStrategy: 'any' } } },
		),
	)
	await core.register(
		flow(
			'rescued',
			[
				['a', 'c'],
				['b', 'c'],
			],
			{
				a: { config: { fallback: 'f' } },
				b: { config: { fallback: 'f' } },
				f: { config: { fallback: 'g' } },
				g: {},
			},
		),
	)
	await core.register(flow('single', [], { a: {} }))
	await core.register(
		flow(
			'nested',
			[
				['a', 's'],
				['s', 'b'],
			],
			{ s: sub('diamond') },
		),
	)
	await core.register(flow('deep', [], { s: sub('nested'), t: sub('single'), u: sub('single') }))
})
afterAll(() => core.drop())

type Step = {
	readonly kind:
		| 'start'
		| 'work'
		| 'drain'
		| 'claim'
		| 'commit'
		| 'commitAgain'
		| 'cancel'
		| 'pause'
		| 'unpause'
		| 'retry'
		| 'event'
		| 'resume'
		| 'release'
		| 'die'
		| 'sweepWorkers'
		| 'sweepLost'
		| 'lose'
		| 'duplicate'
	/** Chooses among what there is. */
	readonly pick: number
	/** How many at once. */
	readonly size: number
	/** What becomes of a node. */
	readonly fate: number
}

const step: fc.Arbitrary<Step> = fc.record({
	kind: fc.oneof(
		{ weight: 3, arbitrary: fc.constant('start' as const) },
		{ weight: 10, arbitrary: fc.constant('work' as const) },
		{ weight: 4, arbitrary: fc.constant('drain' as const) },
		{ weight: 8, arbitrary: fc.constant('claim' as const) },
		{ weight: 8, arbitrary: fc.constant('commit' as const) },
		{ weight: 2, arbitrary: fc.constant('commitAgain' as const) },
		{ weight: 1, arbitrary: fc.constant('cancel' as const) },
		{ weight: 1, arbitrary: fc.constant('pause' as const) },
		{ weight: 3, arbitrary: fc.constant('unpause' as const) },
		{ weight: 3, arbitrary: fc.constant('retry' as const) },
		{ weight: 4, arbitrary: fc.constant('event' as const) },
		{ weight: 4, arbitrary: fc.constant('resume' as const) },
		{ weight: 1, arbitrary: fc.constant('release' as const) },
		{ weight: 2, arbitrary: fc.constant('die' as const) },
		{ weight: 3, arbitrary: fc.constant('sweepWorkers' as const) },
		{ weight: 2, arbitrary: fc.constant('sweepLost' as const) },
		{ weight: 1, arbitrary: fc.constant('lose' as const) },
		{ weight: 1, arbitrary: fc.constant('duplicate' as const) },
	),
	pick: fc.nat(1_000_000),
	size: fc.integer({ min: 1, max: 6 }),
	fate: fc.nat(99),
})

/** Steps of one wave happen at once. */
const history = fc.array(fc.array(step, { minLength: 1, maxLength: 6 }), { minLength: 20, maxLength: 50 })

class World {
	private readonly runIds: string[] = []
	private readonly workers: string[] = []
	/** What stands in the broker. */
	private messages: NodeKey[] = []
	/** What has been lost from there, at some time: the sweep's affair. */
	private readonly lost = new Set<string>()
	private readonly held: ClaimedNode[] = []
	private readonly past: NodeCommit[] = []
	/** Tokens whose commit was applied, and nodes that have ended, to see that neither happens twice. */
	private readonly applied = new Set<string>()
	private readonly ended = new Set<string>()

	static async create(): Promise<World> {
		await core.rows(
			`truncate flowcraft_statuses, flowcraft_nodes, flowcraft_outbox, flowcraft_attempts, flowcraft_arrivals, flowcraft_contexts,
				flowcraft_transitions, flowcraft_workers, flowcraft_kept_events`,
		)
		const world = new World()
		await world.hire()
		await world.hire()
		return world
	}

	async hire(): Promise<void> {
		this.workers.push(await core.worker())
	}

	async run({ kind, pick, size, fate }: Step): Promise<void> {
		switch (kind) {
			case 'start':
				this.runIds.push(await core.start(BLUEPRINTS[pick % BLUEPRINTS.length] as string))
				return
			case 'work': {
				const before = this.held.length
				this.messages.push(...(await core.drain()))
				await this.claim(
					this.takeMessages(pick, 2 * size),
					this.workers[fate % this.workers.length] as string,
				)
				return this.commit(this.held.splice(before), fate)
			}
			case 'drain':
				this.messages.push(...(await core.drain()))
				return
			case 'claim':
				return this.claim(
					this.takeMessages(pick, size),
					this.workers[fate % this.workers.length] as string,
				)
			case 'commit':
				return this.commit(this.takeHeld(pick, size), fate)
			case 'commitAgain': {
				const commit = this.past[pick % Math.max(this.past.length, 1)]
				if (commit !== undefined) await this.apply([commit])
				return
			}
			case 'cancel': {
				const runId = this.runIds[pick % Math.max(this.runIds.length, 1)]
				if (runId !== undefined) await unlessConflict(cancelRun(core.sql, runId))
				return
			}
			case 'pause':
			case 'unpause':
			case 'retry': {
				const runId = this.runIds[pick % Math.max(this.runIds.length, 1)]
				if (runId === undefined) return
				if (kind === 'retry')
					await unlessConflict(
						retryRun(core.sql, runId, fate < 50 ? {} : { nodeId: fate < 75 ? 'a' : 's' }),
					)
				else await unlessConflict((kind === 'pause' ? pauseRun : unpauseRun)(core.sql, runId))
				return
			}
			case 'event':
				await sendEvent(core.sql, eventOf(pick), { keepMs: fate < 50 ? 0 : 60_000 })
				return
			case 'resume':
				return this.resume(pick)
			case 'release':
				await releaseNodes(
					core.sql,
					this.takeHeld(pick, size).map(({ key, token }) => ({ key, token, delayMs: 0 })),
				)
				return
			case 'die':
				if (this.workers.length < 2) return
				return this.kill(this.workers.splice(pick % this.workers.length, 1)[0] as string)
			case 'sweepWorkers':
				await sweepWorkers(core.sql, size * 3)
				return
			case 'sweepLost':
				await sweepLost(core.sql, 0, fate < 50, size * 10)
				return
			case 'lose':
				for (const key of this.takeMessages(pick, size)) this.lost.add(keyText(key))
				return
			case 'duplicate': {
				const taken = this.takeMessages(pick, size)
				this.messages.push(...taken, ...taken)
				return
			}
		}
	}

	async check(): Promise<void> {
		expect(await core.violations()).toEqual([])
		expect(await this.forgotten()).toEqual([])
		const { repaired } = await sweepRuns(core.sql, '', 1000, 0)
		expect(repaired).toEqual([])
	}

	/** Everybody dies, messages are lost, and then all goes well: every run ends. */
	async bringToAnEnd(): Promise<void> {
		for (const workerId of this.workers.splice(0)) await this.kill(workerId)
		await this.hire()
		this.messages = []
		for (const runId of this.runIds) await unlessConflict(unpauseRun(core.sql, runId))
		for (let round = 0; round < 200; round++) {
			await sweepWorkers(core.sql, 1000)
			await sweepLost(core.sql, 0, false, 1000)
			this.messages.push(...(await core.drain()))
			await this.claim(this.takeMessages(0, this.messages.length), this.workers[0] as string)
			await this.commit(this.held.splice(0), 0)
			for (;;) {
				const [waiting] = await core.rows<{ run_id: string; node_id: string }>(
					`select n.run_id, n.node_id from flowcraft_nodes n where n.state = 'waiting' and due_at is null limit 1`,
				)
				if (waiting === undefined) break
				await resumeRun(core.sql, waiting.run_id, { nodeId: waiting.node_id })
			}
			const live = await core.rows(`select 1 from flowcraft_statuses where finished_at is null limit 1`)
			if (live.length === 0) return
		}
		const stuck = await core.rows(
			`select s.run_id, s.status, s.blueprint_id, n.node_id, n.recovers, n.state, n.reemits from flowcraft_statuses s join flowcraft_nodes n using (run_id)
			where s.finished_at is null and n.state in ('ready', 'running', 'waiting', 'child')`,
		)
		throw new Error(`Runs do not come to their end: ${JSON.stringify(stuck)}`)
	}

	/** Nodes that could run, but have neither a row in the outbox nor a message, and no message of theirs was lost. */
	private async forgotten(): Promise<string[]> {
		const rows = await core.rows<{
			run_id: string
			node_id: string
			generation: string
			recovers: string
		}>(
			`select n.run_id, n.node_id, n.generation, n.recovers
			from flowcraft_nodes n join flowcraft_statuses s on s.run_id = n.run_id and s.status in ('running', 'awaiting')
			left join flowcraft_statuses child on child.run_id = n.child_run_id
			where (n.state = 'ready' or (n.state = 'waiting' and n.due_at is not null) or (n.state = 'child' and child.finished_at is not null))
				and not exists (
					select from flowcraft_outbox o where o.kind = 'job' and o.run_id = n.run_id and o.node_id = n.node_id
						and o.generation = n.generation and o.recovers = n.recovers
				)`,
		)
		const known = new Set([...this.lost, ...this.messages.map(keyText)])
		return rows
			.map((row) =>
				keyText({
					runId: row.run_id,
					nodeId: row.node_id,
					generation: row.generation,
					recovers: row.recovers,
				}),
			)
			.filter((key) => !known.has(key))
	}

	private takeMessages(pick: number, size: number): NodeKey[] {
		if (this.messages.length === 0) return []
		return this.messages.splice(pick % this.messages.length, size)
	}

	private takeHeld(pick: number, size: number): ClaimedNode[] {
		if (this.held.length === 0) return []
		return this.held.splice(pick % this.held.length, size)
	}

	private async claim(keys: NodeKey[], workerId: string): Promise<void> {
		if (keys.length === 0) return
		const outcomes = await claimNodes(core.sql, workerId, keys)
		outcomes.forEach((outcome, position) => {
			if (outcome.status === 'claimed') this.held.push(outcome.node)
			// The message goes back.
			else if (outcome.status === 'no_lease') this.messages.push(keys[position] as NodeKey)
		})
	}

	private async commit(nodes: ClaimedNode[], fate: number): Promise<void> {
		await this.apply(nodes.map((node, position) => this.decide(node, (fate + 37 * position) % 100)))
	}

	private decide(node: ClaimedNode, fate: number): NodeCommit {
		const { key, token } = node
		const { uses, params } = core.definition(node.blueprintId, key.nodeId)
		if (fate >= 92 && node.attempt < 3) return { key, token, outcome: 'retry', error: '{}', delayMs: 0 }
		if (fate >= 86) return core.failed(node)
		if (uses === 'subflow') {
			if (node.child !== null)
				return node.child.status === 'completed' ? core.completed(node) : core.failed(node)
			return {
				key,
				token,
				outcome: 'child',
				childRunId: crypto.randomUUID(),
				childBlueprint: String(params?.['blueprintId']),
			}
		}
		if (node.wake === null && fate >= 80)
			return { key, token, outcome: 'waiting', wait: '{"reason":"external_event"}' }
		if (node.wake === null && fate >= 74) {
			return {
				key,
				token,
				outcome: 'waiting',
				wait: '{"reason":"external_event"}',
				waitEvent: eventOf(fate),
				delayMs: fate % 4 === 0 ? 0 : undefined,
			}
		}
		if (node.wake === null && fate >= 68)
			return { key, token, outcome: 'waiting', wait: '{"reason":"timer"}', delayMs: 0 }
		return core.completed(node, { output: fate, writes: { shared: fate } })
	}

	private async apply(commits: NodeCommit[]): Promise<void> {
		if (commits.length === 0) return
		const { outcomes } = await commitNodes(core.sql, commits)
		commits.forEach((commit, position) => {
			if (outcomes[position] !== 'committed') return
			expect(this.applied.has(commit.token), 'a claim is committed once').toBe(false)
			this.applied.add(commit.token)
			this.past.push(commit)
			if (commit.outcome !== 'completed') return
			expect(this.ended.has(keyText(commit.key)), 'a node completes once').toBe(false)
			this.ended.add(keyText(commit.key))
		})
	}

	private async resume(pick: number): Promise<void> {
		const waiting = await core.rows<{ run_id: string; node_id: string }>(
			`select run_id, node_id from flowcraft_nodes where state = 'waiting' order by 1, 2`,
		)
		const node = waiting[pick % Math.max(waiting.length, 1)]
		if (node !== undefined)
			await unlessConflict(resumeRun(core.sql, node.run_id, { nodeId: node.node_id }))
	}

	/** Its lease passes; what it has in hand it may still try to commit. */
	private async kill(workerId: string): Promise<void> {
		await core.rows(
			`update flowcraft_workers set lease_until = '-infinity' where worker_id = $1::text::uuid`,
			workerId,
		)
		if (this.workers.length < 2) await this.hire()
	}
}

/** Few enough to meet: two names, with one of two correlation keys or none. */
function eventOf(pick: number): { name: string; key?: string } {
	return { name: `e${pick % 2}`, ...(pick % 3 === 0 ? {} : { key: `k${pick % 3}` }) }
}

async function unlessConflict(done: Promise<unknown>): Promise<void> {
	await done.catch((error: unknown) => {
		if (!(error instanceof ConflictError)) throw error
	})
}

test(
	'whatever happens at once, counters agree with nodes, nothing happens twice, nothing is lost, and every run ends',
	{ timeout: 600_000 },
	async () => {
		await fc.assert(
			fc.asyncProperty(history, async (waves) => {
				const world = await World.create()
				for (const wave of waves) {
					await Promise.all(wave.map((each) => world.run(each)))
					await world.check()
				}
				await world.bringToAnEnd()
				await world.check()
			}),
			// Another order of events is no simpler one: what failed is shown as it was, with its seed.
			{ numRuns: HISTORIES, endOnFailure: true, verbose: fc.VerbosityLevel.None },
		)
	},
)
