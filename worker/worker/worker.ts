/**
 * A worker: delivery → claim → ack → execute → commit, for as many nodes at once as it has slots.
 *
 *   start   registers its blueprints and itself, begins the heartbeat, subscribes
 *   stop    subscribes no more, lets nodes end up to a deadline, gives the rest back, leaves the registry
 *
 * The claim stands in Postgres before the message is acked, so a message is never the only trace of work; and since
 * it is acked before the node runs, no consumer timeout of the broker concerns a node that runs for hours.
 */
import { hostname } from 'node:os'
import { offerImplementations, registerBlueprint } from '../../src/blueprint/register.js'
import { createBlueprintStore } from '../../src/blueprint/store.js'
import {
	type ClaimedNode,
	type ClaimOutcome,
	endedRuns,
	heldNodes,
	type ReleasedClaim,
	releaseNodes,
} from '../../src/claim/claim.js'
import { markDraining, markStopped, registerWorker } from '../../src/claim/worker-registry.js'
import type { NodeCommit } from '../../src/commit/commit.js'
import { createLastingDatabase } from '../../src/db/renewing-pool.js'
import { withDeadline } from '../../src/db/errors.js'
import { type Loop, runLoop, withJitter } from '../../src/loop.js'
import { answers } from '../../src/db/query.js'
import { whileUnavailable } from '../../src/db/retry.js'
import { readJob } from '../../src/outbox/message.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import type { Broker, Delivery, Subscription } from '../../src/ports/broker.js'
import type { Doorbell } from '../../src/ports/doorbell.js'
import type { Logger } from '../../src/ports/logger.js'
import { VERSION } from '../../src/version.js'
import {
	ClaimLostError,
	NodeTimeoutError,
	RunCancelledError,
	WorkerDrainingError,
} from '../execution/aborts.js'
import { toError } from '../execution/attempt.js'
import {
	type ExecutionEngine,
	failNode,
	type OnCommit,
	runNode,
	successorsIn,
} from '../execution/run-node.js'
import { createWebhookUrls } from '../execution/webhook.js'
import { createWorkflows, type WorkflowsModule } from '../execution/workflows.js'
import { createTransactionalCommitter, OnCommitError } from '../transaction/commit.js'
import { TransactionPool } from '../transaction/pool.js'
import { createBatchingReader } from './batching-reader.js'
import { createClaimer } from './claims.js'
import { announce, type Committed, createCommitter, sleep } from './commits.js'
import { continuedNodes, offerClaims, offeredClaims, shareOf } from './continuation.js'
import { createEmitter } from '../execution/emitter.js'
import { type Heartbeat, startHeartbeat } from './heartbeat.js'
import { RunningNodes } from './running-nodes.js'

export interface WorkerOptions {
	readonly databaseUrl: string
	readonly broker: Broker
	readonly doorbell: Doorbell
	readonly workflows: WorkflowsModule
	readonly logger: Logger
	/** Default `flowcraft-jobs`. */
	readonly queue?: string
	/** Nodes at once. Default 32. */
	readonly concurrency?: number
	/** A worker silent for so long is dead, in ms. Default 15000. */
	readonly leaseMs?: number
	/** How long `stop` waits for running nodes before it gives them back, in ms. Default 30000. */
	readonly drainMs?: number
	/** A node that no worker could run for so long fails as a dead letter, in ms. Default an hour. */
	readonly unrunnableLimitMs?: number
	/**
	 * A slot goes on with the next node of the run it is at, without a message, and so do the free slots of a worker that is
	 * alone. While others wait for a slot, it does so until it has run so many nodes in a row; 1: never. Default 8.
	 */
	readonly maxInARow?: number
	/** A node that stands as this worker's for so long without being in hand is given back, in ms. Default 45000. */
	readonly forgottenAfterMs?: number
	/** Connections to Postgres. Default 6. */
	readonly poolSize?: number
	/** Connections for nodes with `onCommit`, beside those, opened when they are needed. Default 4. */
	readonly transactionPoolSize?: number
	/** Where the functions are reached, for the URLs of webhooks. Default http://127.0.0.1:3000. */
	readonly publicUrl?: string
	/** What webhooks' tokens are derived from. Default: a random one, kept in the database. */
	readonly webhookSecret?: string
	/** For people, in the registry and the logs. Default host and process id. */
	readonly name?: string
}

export interface Worker {
	/** Resolves when blueprints and worker are registered and the queue is subscribed to. */
	start(): Promise<void>
	/** Idempotent. */
	stop(): Promise<void>
	/** Whether it can claim: it is registered, and Postgres answers. */
	isReady(): Promise<boolean>
	/** Nodes that run right now. */
	running(): number
	/** Nodes that this process has executed since its start, by what became of them. */
	counts(): Readonly<
		Record<
			| 'completed'
			| 'failed'
			| 'retry'
			| 'waiting'
			| 'child'
			| 'pending'
			| 'lost'
			| 'released'
			| 'continued',
			number
		>
	>
}

/** Of the statements that look after claims, in ms; claims themselves have one of their own. */
const QUERY_DEADLINE_MS = 15_000
/** How often a worker asks which of its runs were cancelled, beside the doorbell; in ms. */
const CANCEL_POLL_MS = 1_000
/** How often a worker compares what stands as its own with what it has in hand, in ms. */
const FORGOTTEN_POLL_MS = 5_000
/** No claim is under way for so long: its statement has been cancelled by then. In ms. */
const FORGOTTEN_AFTER_MS = 45_000
/** Deliveries that wait for a slot for longer go back to the broker, where another worker may be free; in ms. */
const SATURATED_MS = 250
/** Nodes that begin in one turn of the event loop: what they finish is committed while the next ones begin. */
const STARTS_PER_TURN = 50
/** Pause before a message that could not be claimed goes back, in ms: the database is unreachable, or we are. */
const REQUEUE_PAUSE_MS = 500
const DEFAULT_MAX_IN_A_ROW = 8
const MIN_REGISTER_PAUSE_MS = 200
const MAX_REGISTER_PAUSE_MS = 5_000

const nextTurn = async (after?: Promise<void>): Promise<void> => {
	await after
	await new Promise(setImmediate)
}

interface Waiting {
	readonly delivery: Delivery
	readonly key: NodeKey
}

export function createWorker(options: WorkerOptions): Worker {
	const { broker, doorbell, logger } = options
	const queue = options.queue ?? 'flowcraft-jobs'
	const concurrency = options.concurrency ?? 32
	const leaseMs = options.leaseMs ?? 15_000
	const drainMs = options.drainMs ?? 30_000
	const forgottenAfterMs = options.forgottenAfterMs ?? FORGOTTEN_AFTER_MS
	const maxInARow = options.maxInARow ?? DEFAULT_MAX_IN_A_ROW
	const name = options.name ?? `${hostname()}:${process.pid}`

	const database = createLastingDatabase(options.databaseUrl, {
		max: options.poolSize ?? 6,
		applicationName: 'flowcraft-worker',
	})
	const db = database.sql
	const workflows = createWorkflows(options.workflows, logger)
	const offers = new Set<string>()
	const engine: ExecutionEngine = {
		db,
		reader: createBatchingReader(db),
		workflows,
		blueprints: createBlueprintStore(db),
		offers,
		unrunnableLimitMs: options.unrunnableLimitMs ?? 60 * 60_000,
		webhooks: createWebhookUrls(db, options),
		emitter: createEmitter({ db, codec: workflows.codec, logger }),
	}
	const committer = createCommitter(db, doorbell, logger, () => workerId)
	const transactions = createTransactionalCommitter({
		pool: new TransactionPool({
			databaseUrl: options.databaseUrl,
			max: options.transactionPoolSize ?? 4,
		}),
		db,
		onApplied: (result) => announce(doorbell, result),
		logger,
	})
	const running = new RunningNodes()
	const counts = {
		completed: 0,
		failed: 0,
		retry: 0,
		waiting: 0,
		child: 0,
		pending: 0,
		lost: 0,
		released: 0,
		continued: 0,
	}

	let workerId = ''
	let heartbeat: Heartbeat | undefined
	let subscription: Subscription | undefined
	let polls: Loop[] = []
	let stopListening: (() => void) | undefined
	let stopping: Promise<void> | undefined
	/** Slots that are taken: by a claim under way, by a node, or for what a commit under way may claim. */
	let taken = 0
	/** That take from this queue, this one among them, as of the last heartbeat. */
	let workers = 1
	let waiting: Waiting[] = []
	let saturatedTimer: NodeJS.Timeout | undefined
	let paused = false
	const claimer = createClaimer({
		db,
		workerId: () => workerId,
		leaseMs,
		doubtMs: forgottenAfterMs,
		isStopping: () => stopping !== undefined,
	})

	// ── Deliveries and slots ─────────────────────────────────────────────────────────────────────────────────────────

	function onDelivery(delivery: Delivery): void {
		if (stopping !== undefined) return delivery.requeue()
		const key = readJob(delivery.body)
		if (key === undefined) {
			logger.warn('A message is no job', {
				messageId: delivery.messageId,
				body: delivery.body.slice(0, 200),
			})
			return delivery.reject()
		}
		if (taken < concurrency) return void occupySlot({ delivery, key })
		waiting.push({ delivery, key })
		watchSaturation()
	}

	/** While deliveries wait, some slot has to come free every now and then. */
	function watchSaturation(): void {
		saturatedTimer ??= setTimeout(() => void giveWay(), SATURATED_MS)
	}

	/** No slot has come free for a while: others may have one. */
	async function giveWay(): Promise<void> {
		saturatedTimer = undefined
		if (stopping !== undefined || taken < concurrency) return
		paused = true
		waiting = []
		await subscription?.pause()
		if (taken < concurrency) resumeDeliveries()
	}

	function resumeDeliveries(): void {
		if (!paused || stopping !== undefined) return
		paused = false
		subscription
			?.resume()
			.catch((error: unknown) => logger.error('The subscription could not be resumed', { error }))
	}

	function freeSlot(): void {
		taken -= 1
		clearTimeout(saturatedTimer)
		saturatedTimer = undefined
		const next = waiting.shift()
		if (waiting.length > 0) watchSaturation()
		if (next !== undefined) void occupySlot(next)
		else resumeDeliveries()
	}

	async function occupySlot({ delivery, key }: Waiting): Promise<void> {
		taken += 1
		await inSlot(key, async () => runInARow(await claim(delivery, key)))
	}

	/** For nodes that are claimed already, with a slot taken for each. */
	function fillSlots(nodes: readonly ClaimedNode[]): void {
		let turn: Promise<void> | undefined
		for (const [position, node] of nodes.entries()) {
			if (position % STARTS_PER_TURN === 0) turn = nextTurn(turn)
			const begin = turn
			void inSlot(node.key, () => runInARow(node, begin))
		}
	}

	/** Works in a slot that is taken, and frees it. */
	async function inSlot(key: NodeKey, work: () => Promise<void>): Promise<void> {
		try {
			await work()
		} catch (error) {
			logger.error('A job could not be handled', { ...key, workerId, error })
		} finally {
			freeSlot()
		}
	}

	/** @param turn when the first one may begin; it is in hand before */
	async function runInARow(first: ClaimedNode | undefined, turn?: Promise<void>): Promise<void> {
		let node = first
		for (let inARow = 1; node !== undefined; inARow++)
			node = await run(node, () => mayGoOn(inARow), inARow === 1 ? turn : undefined)
	}

	/** Takes slots that are free, so many at most, and says how many. */
	function takeSlots(most: number): number {
		const slots = paused ? 0 : Math.max(Math.min(most, concurrency - taken), 0)
		taken += slots
		return slots
	}

	/** The claim decides; whatever it says, the message has then done its duty. */
	async function claim(delivery: Delivery, key: NodeKey): Promise<ClaimedNode | undefined> {
		let outcome: ClaimOutcome
		try {
			outcome = await claimer.claim(key)
		} catch (error) {
			logger.warn('A job could not be claimed', { ...key, workerId, error })
			outcome = { status: 'no_lease' }
		}
		if (outcome.status === 'no_lease') {
			await sleep(REQUEUE_PAUSE_MS)
			delivery.requeue()
			return undefined
		}
		delivery.ack()
		if (outcome.status === 'claimed') return outcome.node
		logger.debug('A job was not claimed', { ...key, outcome: outcome.status })
		return undefined
	}

	/** Whether a slot may take the next node of its run: others may wait for it as well. */
	const mayGoOn = (inARow: number): boolean =>
		stopping === undefined && maxInARow > 1 && (inARow < maxInARow || (waiting.length === 0 && !paused))

	// ── Nodes ────────────────────────────────────────────────────────────────────────────────────────────────────────

	/** Returns the node that the same slot goes on with. */
	async function run(
		claimed: ClaimedNode,
		goesOn: () => boolean,
		turn?: Promise<void>,
	): Promise<ClaimedNode | undefined> {
		const node = running.add(claimed)
		const fields = {
			runId: claimed.key.runId,
			nodeId: claimed.key.nodeId,
			attempt: claimed.attempt,
			workerId,
		}
		try {
			if (turn !== undefined) await turn
			const end = await runNode(engine, claimed, node.abort.signal)
			switch (end.type) {
				case 'commit':
					if (end.onCommit === undefined)
						return await commit(claimed, end.commit, node.abort.signal, goesOn)
					return await commitWith(claimed, end.commit, end.onCommit, node.abort.signal, goesOn)
				case 'unrunnable':
					logger.warn('This worker cannot run a node', { ...fields, missing: end.missing })
					// Grows by half each time, from a quarter of a second to half a minute.
					await release(
						claimed,
						Math.min(Math.max((claimed.unrunnableMs ?? 0) / 2, 250), 30_000),
						true,
					)
					break
				case 'abandoned':
					logger.info('A node was aborted', { ...fields, reason: end.because.name })
					counts.lost += 1
					if (end.because instanceof WorkerDrainingError) await release(claimed, 0, false)
			}
		} catch (error) {
			if (error instanceof RunCancelledError || error instanceof ClaimLostError) {
				counts.lost += 1
				return undefined
			}
			// Nothing that the node did, since its errors end in a commit: our own reads failed. Elsewhere, or later, they may not.
			logger.error('A node could not be brought to an end', { ...fields, error })
			await release(claimed, 1_000, false)
		} finally {
			running.remove(node)
		}
		return undefined
	}

	/** @param submit how it is committed; in a batch with others by default */
	async function commit(
		claimed: ClaimedNode,
		planned: NodeCommit,
		signal: AbortSignal,
		goesOn: () => boolean,
		submit = (nodeCommit: NodeCommit): Promise<Committed> => committer.commit(nodeCommit, signal),
	): Promise<ClaimedNode | undefined> {
		const fields = {
			runId: claimed.key.runId,
			nodeId: claimed.key.nodeId,
			attempt: claimed.attempt,
			workerId,
		}
		// What follows may not be known any more, and cannot be looked up: that is no reason not to commit.
		const canRun = goesOn() ? await successorsIn(engine, claimed).catch(() => undefined) : undefined
		let nodeCommit = planned
		/** Slots that are kept for what it claims, beside the one of the finished node. */
		let spare = 0
		const failWith = async (error: Error): Promise<ClaimedNode | undefined> =>
			commit(claimed, await failNode(engine, claimed, error), signal, goesOn)
		try {
			if (canRun !== undefined) {
				spare = takeSlots(shareOf(planned.next?.length ?? 0, workers) - 1)
				nodeCommit = offerClaims(planned, canRun, 1 + spare)
			}
			const { outcome, refusal, continued } = await submit(nodeCommit)
			if (outcome === 'refused' && nodeCommit.outcome === 'failed')
				throw new Error(`A failure was refused: ${refusal}`)
			if (outcome === 'refused') return await failWith(new Error(refusal))
			if (outcome === 'lost') {
				counts.lost += 1
				logger.info('A commit came too late: the claim was lost', fields)
				return undefined
			}
			counts[nodeCommit.outcome] += 1
			// The answer that named the claims was lost; or what aborted this node did not know of them yet.
			if (outcome === 'repeated' || signal.aborted || stopping !== undefined) {
				await giveBack(offeredClaims(nodeCommit))
				return undefined
			}
			const [next, ...others] = continuedNodes(claimed, nodeCommit, continued)
			if (next !== undefined) counts.continued += 1 + others.length
			spare -= others.length
			fillSlots(others)
			return next
		} catch (error) {
			if (signal.aborted) {
				// The commit may be applied all the same, even yet.
				claimer.doubt(offeredClaims(nodeCommit))
				throw signal.reason
			}
			if (error instanceof OnCommitError) throw error
			// Postgres will never take this: the node fails, permanently, and nobody else with it.
			logger.error('A commit was refused', { ...fields, error })
			if (nodeCommit.outcome === 'failed') throw error
			return await failWith(toError(error))
		} finally {
			for (; spare > 0; spare--) freeSlot()
		}
	}

	/** With statements of the user's, in a transaction of its own, which goes on with nothing. */
	async function commitWith(
		claimed: ClaimedNode,
		planned: NodeCommit,
		{ callbacks, limit, failed, committed }: OnCommit,
		signal: AbortSignal,
		goesOn: () => boolean,
	): Promise<ClaimedNode | undefined> {
		const submit = async (nodeCommit: NodeCommit): Promise<Committed> => {
			try {
				const done = await transactions.commit(nodeCommit, callbacks, signal, limit.signal)
				if (done.outcome === 'committed' || done.outcome === 'repeated') committed()
				return { ...done, continued: new Map() }
			} catch (error) {
				if (error instanceof NodeTimeoutError) throw new OnCommitError(error)
				throw error
			}
		}
		try {
			return await commit(claimed, planned, signal, () => false, submit)
		} catch (error) {
			if (!(error instanceof OnCommitError)) throw error
			return await commit(claimed, failed(error.cause), signal, goesOn)
		} finally {
			limit.stop()
		}
	}

	async function release(claimed: ClaimedNode, delayMs: number, unrunnable: boolean): Promise<void> {
		counts.released += 1
		await giveBack([{ key: claimed.key, token: claimed.token, delayMs }], unrunnable)
	}

	/** Does nothing to claims that are not ours, or never were. */
	async function giveBack(claims: readonly ReleasedClaim[], unrunnable = false): Promise<void> {
		const [first] = claims
		if (first === undefined) return
		try {
			await whileUnavailable('A release', () => releaseNodes(db, claims, unrunnable))
			doorbell.ring({ type: 'outbox' })
		} catch (error) {
			// They stay ours until the look for forgotten nodes, the end of this process or the sweep.
			logger.error('Nodes could not be given back', {
				...first.key,
				nodes: claims.length,
				workerId,
				error,
			})
		}
	}

	function poll(everyMs: number, look: () => Promise<void>): Loop {
		return runLoop({
			tick: async () => {
				await look()
				return 0
			},
			minIdleMs: everyMs,
			maxIdleMs: everyMs,
			onError: (error) =>
				logger.warn('The worker could not look after its nodes', {
					workerId,
					look: look.name,
					error,
				}),
		})
	}

	async function abortCancelled(): Promise<void> {
		const runIds = running.runIds()
		if (runIds.length > 0)
			abortRuns(
				await withDeadline('The look for cancelled runs', QUERY_DEADLINE_MS, endedRuns(db, runIds)),
			)
	}

	/** What stands as ours without our knowing it, since the answer to its claim was lost, or came from beside it. */
	async function giveBackDoubtful(): Promise<void> {
		const released = await giveBackAll(claimer.doubtful())
		if (released > 0)
			logger.warn('Nodes whose claim was in doubt are given back', { workerId, nodes: released })
	}

	/** Returns how many were ours. */
	async function giveBackAll(claims: readonly ReleasedClaim[]): Promise<number> {
		if (claims.length === 0) return 0
		const released = await withDeadline('A release', QUERY_DEADLINE_MS, releaseNodes(db, claims))
		if (released > 0) doorbell.ring({ type: 'outbox' })
		return released
	}

	/** Whatever else stands as ours, and nobody works on it: a release may have failed. */
	async function giveBackForgotten(): Promise<void> {
		await giveBackDoubtful()
		const held = await withDeadline(
			'The look for forgotten nodes',
			QUERY_DEADLINE_MS,
			heldNodes(db, workerId, forgottenAfterMs),
		)
		const inHand = new Set(running.all().map(({ claimed }) => claimed.token))
		const forgotten = held.filter(({ token }) => !inHand.has(token) && !claimer.isUnderWay(token))
		const released = await giveBackAll(forgotten.map((claim) => ({ ...claim, delayMs: 0 })))
		if (released > 0) logger.warn('Forgotten nodes are given back', { workerId, nodes: released })
	}

	const abortRuns = (runIds: readonly string[]): void =>
		running.abort((runId) => new RunCancelledError(runId), new Set(runIds))

	// ── Registry and heartbeat ───────────────────────────────────────────────────────────────────────────────────────

	async function register(): Promise<void> {
		workerId = crypto.randomUUID()
		workers = await registerWorker(db, {
			workerId,
			name,
			version: VERSION,
			queues: [queue],
			slots: concurrency,
			offers: [...offers],
			leaseMs,
		})
		heartbeat = startHeartbeat({
			databaseUrl: options.databaseUrl,
			workerId,
			leaseMs,
			logger,
			onBeat: (alive) => void (workers = alive),
			onLost: () => void beginAgain(),
		})
	}

	/** Declared dead, by a sweep that heard nothing of us for a lease: what we had is lost, we are somebody new. */
	async function beginAgain(): Promise<void> {
		if (stopping !== undefined) return
		logger.error('This worker was declared dead and begins again', { workerId })
		running.abort(() => new ClaimLostError())
		void heartbeat?.stop()
		for (let failures = 0; stopping === undefined; failures++) {
			await sleep(withJitter(Math.min(MIN_REGISTER_PAUSE_MS * 2 ** failures, MAX_REGISTER_PAUSE_MS)))
			try {
				return await register()
			} catch (error) {
				logger.error('The worker could not be registered', { workerId, error })
			}
		}
	}

	return {
		async start() {
			await offerImplementations(db, [...workflows.registry.keys()])
			for (const blueprint of workflows.blueprints) {
				const registered = await registerBlueprint(db, blueprint)
				offers.add(`${registered.blueprintId}@${registered.hash}`)
				for (const warning of registered.warnings)
					logger.warn(warning, { blueprint: registered.blueprintId })
			}
			await register()
			stopListening = doorbell.listen((ring) => {
				if (ring.type === 'cancelled') abortRuns(ring.runIds)
			})
			polls = [poll(CANCEL_POLL_MS, abortCancelled), poll(FORGOTTEN_POLL_MS, giveBackForgotten)]
			subscription = await broker.consume({ queue, prefetch: concurrency, onDelivery })
			logger.info('The worker listens', {
				workerId,
				queue,
				slots: concurrency,
				blueprints: offers.size,
			})
		},

		stop() {
			stopping ??= (async () => {
				logger.info('The worker drains', { workerId, running: running.size })
				clearTimeout(saturatedTimer)
				waiting = []
				// Without an id it never came as far as the registry.
				const isRegistered = workerId !== ''
				const tell = (mark: typeof markStopped): Promise<void> | undefined =>
					isRegistered
						? mark(db, workerId).catch((error: unknown) =>
								logger.warn('The registry was not told', { workerId, error }),
							)
						: undefined
				await Promise.all([subscription?.close(), tell(markDraining)])
				if (!(await idleWithin(drainMs))) {
					running.abort(() => new WorkerDrainingError())
					await idleWithin(QUERY_DEADLINE_MS)
				}
				stopListening?.()
				await Promise.all(polls.map((loop) => loop.stop()))
				if (isRegistered)
					await giveBackDoubtful().catch((error: unknown) =>
						logger.warn('Doubtful claims could not be given back', { workerId, error }),
					)
				await heartbeat?.stop()
				await tell(markStopped)
				await Promise.all([transactions.close(), database.close()])
				logger.info('The worker has stopped', { workerId, ...counts })
			})()
			return stopping
		},

		isReady: async () => subscription !== undefined && stopping === undefined && answers(db),
		running: () => running.size,
		counts: () => counts,
	}

	/** False: the time was over first. Leaves no timer behind. */
	async function idleWithin(ms: number): Promise<boolean> {
		const done = new AbortController()
		const drained = await Promise.race([
			idle().then(() => true),
			sleep(ms, done.signal).then(() => false),
		])
		done.abort()
		return drained
	}

	async function idle(): Promise<void> {
		while (taken > 0) await Promise.race([running.empty().then(() => sleep(5)), sleep(50)])
		await committer.idle()
	}
}
