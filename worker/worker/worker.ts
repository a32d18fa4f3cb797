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
import type { ClaimedNode, ClaimOutcome } from '../../src/claim/claim.js'
import { markDraining, markStopped, registerWorker } from '../../src/claim/worker-registry.js'
import { createLastingDatabase } from '../../src/db/renewing-pool.js'
import { type Loop, runLoop, withJitter } from '../../src/loop.js'
import { answers } from '../../src/db/query.js'
import type { NodeKey } from '../../src/plan/node-key.js'
import type { Broker, Delivery } from '../../src/ports/broker.js'
import type { Doorbell } from '../../src/ports/doorbell.js'
import type { Logger } from '../../src/ports/logger.js'
import { VERSION } from '../../src/version.js'
import { ClaimLostError, WorkerDrainingError } from '../execution/aborts.js'
import { createEmitter } from '../execution/emitter.js'
import type { ExecutionEngine } from '../execution/engine.js'
import { createWebhookUrls } from '../execution/webhook.js'
import { createWorkflows, type WorkflowsModule } from '../execution/workflows.js'
import { createTransactionalCommitter } from '../transaction/commit.js'
import { TransactionPool } from '../transaction/pool.js'
import { createBatchingReader } from './batching-reader.js'
import { createClaimer } from './claims.js'
import { announce, createCommitter, sleep } from './commits.js'
import { type Heartbeat, startHeartbeat } from './heartbeat.js'
import { createNodeRunner, type NodeCounts } from './node-runner.js'
import { createOwnClaims } from './own-claims.js'
import { RunningNodes } from './running-nodes.js'
import { Slots } from './slots.js'

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
	counts(): Readonly<NodeCounts>
}

/** How often a worker asks which of its runs were cancelled, beside the doorbell; in ms. */
const CANCEL_POLL_MS = 1_000
/** How often a worker compares what stands as its own with what it has in hand, in ms. */
const FORGOTTEN_POLL_MS = 5_000
/** No claim is under way for so long: its statement has been cancelled by then. In ms. */
const FORGOTTEN_AFTER_MS = 45_000
/** Pause before a message that could not be claimed goes back, in ms: the database is unreachable, or we are. */
const REQUEUE_PAUSE_MS = 500
const DEFAULT_MAX_IN_A_ROW = 8
const MIN_REGISTER_PAUSE_MS = 200
const MAX_REGISTER_PAUSE_MS = 5_000
/** What was aborted at the end of the drain has so long to end, in ms. */
const ABORTED_DRAIN_MS = 15_000

export function createWorker(options: WorkerOptions): Worker {
	const { broker, doorbell, logger } = options
	const queue = options.queue ?? 'flowcraft-jobs'
	const concurrency = options.concurrency ?? 32
	const leaseMs = options.leaseMs ?? 15_000
	const drainMs = options.drainMs ?? 30_000
	const forgottenAfterMs = options.forgottenAfterMs ?? FORGOTTEN_AFTER_MS
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
	/** What the parts know of us: shared, and changed here only. */
	const self = { workerId: '', isStopping: false, workers: 1 }
	const committer = createCommitter(db, doorbell, logger, self)
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
	const counts: NodeCounts = {
		completed: 0,
		failed: 0,
		deadLetters: 0,
		retry: 0,
		waiting: 0,
		child: 0,
		pending: 0,
		lost: 0,
		released: 0,
		continued: 0,
	}
	const claimer = createClaimer({ db, self, leaseMs, doubtMs: forgottenAfterMs })
	const ownClaims = createOwnClaims({ db, doorbell, claimer, running, forgottenAfterMs, self, logger })
	const slots = new Slots({ concurrency, onJob, self, logger })
	const runner = createNodeRunner({
		engine,
		committer,
		transactions,
		claimer,
		ownClaims,
		slots,
		running,
		maxInARow: options.maxInARow ?? DEFAULT_MAX_IN_A_ROW,
		counts,
		self,
		logger,
	})

	let heartbeat: Heartbeat | undefined
	let isListening = false
	let polls: Loop[] = []
	let stopListening: (() => void) | undefined
	let stopping: Promise<void> | undefined

	async function onJob(delivery: Delivery, key: NodeKey): Promise<void> {
		const node = await claim(delivery, key)
		if (node !== undefined) await runner.runInARow(node)
	}

	/** The claim decides; whatever it says, the message has then done its duty. */
	async function claim(delivery: Delivery, key: NodeKey): Promise<ClaimedNode | undefined> {
		let outcome: ClaimOutcome
		try {
			outcome = await claimer.claim(key)
		} catch (error) {
			logger.warn('A job could not be claimed', { ...key, workerId: self.workerId, error })
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
					workerId: self.workerId,
					look: look.name,
					error,
				}),
		})
	}

	// ── Registry and heartbeat ───────────────────────────────────────────────────────────────────────────────────────

	async function register(): Promise<void> {
		self.workerId = crypto.randomUUID()
		self.workers = await registerWorker(db, {
			workerId: self.workerId,
			name,
			version: VERSION,
			queues: [queue],
			slots: concurrency,
			offers: [...offers],
			leaseMs,
		})
		heartbeat = startHeartbeat({
			databaseUrl: options.databaseUrl,
			workerId: self.workerId,
			leaseMs,
			logger,
			onBeat: (alive) => void (self.workers = alive),
			onLost: () => void beginAgain(),
		})
	}

	/** Declared dead, by a sweep that heard nothing of us for a lease: what we had is lost, we are somebody new. */
	async function beginAgain(): Promise<void> {
		if (self.isStopping) return
		logger.error('This worker was declared dead and begins again', { workerId: self.workerId })
		running.abort(() => new ClaimLostError())
		void heartbeat?.stop()
		for (let failures = 0; !self.isStopping; failures++) {
			await sleep(withJitter(Math.min(MIN_REGISTER_PAUSE_MS * 2 ** failures, MAX_REGISTER_PAUSE_MS)))
			try {
				return await register()
			} catch (error) {
				logger.error('The worker could not be registered', { workerId: self.workerId, error })
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
				if (ring.type === 'cancelled') ownClaims.abortRuns(ring.runIds)
			})
			polls = [
				poll(CANCEL_POLL_MS, ownClaims.abortCancelled),
				poll(FORGOTTEN_POLL_MS, ownClaims.giveBackForgotten),
			]
			slots.attach(await broker.consume({ queue, prefetch: concurrency, onDelivery: slots.onDelivery }))
			isListening = true
			logger.info('The worker listens', {
				workerId: self.workerId,
				queue,
				slots: concurrency,
				blueprints: offers.size,
			})
		},

		stop() {
			self.isStopping = true
			stopping ??= (async () => {
				logger.info('The worker drains', { workerId: self.workerId, running: running.size })
				// Without an id it never came as far as the registry.
				const isRegistered = self.workerId !== ''
				const tell = (mark: typeof markStopped): Promise<void> | undefined =>
					isRegistered
						? mark(db, self.workerId).catch((error: unknown) =>
								logger.warn('The registry was not told', { workerId: self.workerId, error }),
							)
						: undefined
				await Promise.all([slots.close(), tell(markDraining)])
				if (!(await idleWithin(drainMs))) {
					running.abort(() => new WorkerDrainingError())
					await idleWithin(ABORTED_DRAIN_MS)
				}
				stopListening?.()
				await Promise.all(polls.map((loop) => loop.stop()))
				if (isRegistered)
					await ownClaims.giveBackDoubtful().catch((error: unknown) =>
						logger.warn('Doubtful claims could not be given back', {
							workerId: self.workerId,
							error,
						}),
					)
				await heartbeat?.stop()
				await tell(markStopped)
				await Promise.all([transactions.close(), database.close()])
				logger.info('The worker has stopped', { workerId: self.workerId, ...counts })
			})()
			return stopping
		},

		isReady: async () => isListening && !self.isStopping && answers(db),
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
		while (slots.isBusy) await Promise.race([running.empty().then(() => sleep(5)), sleep(50)])
		await committer.idle()
	}
}
