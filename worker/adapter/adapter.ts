/**
 * Flowcraft's `RabbitMqAdapter`, as its users know it, on this package's engine. It is a door, not a second engine: of
 * the base class nothing orchestrates here, and the coordination store decides nothing.
 *
 *   start   a worker (queue → claim → execute → commit) and, unless told otherwise,
 *           a relay (outbox → queue, and the sweep), so that one object is all that a deployment needs
 *   stop    the worker drains, then everything that the adapter opened is closed
 *
 *   reconcile, resumeWithAction, registerWebhookEndpoint   one write to Postgres each, with or without `start`
 *
 * Each process may have an adapter; they share the work. A run's next message is published by whichever relay finds it,
 * so at least one must run somewhere: here, or as `npm run start:relay`.
 */
import { type AdapterOptions, BaseDistributedAdapter, type ILogger, type JobPayload } from 'flowcraft'
import { PostgresContext } from '../../src/context/postgres-context.js'
import { createValueCodec, type ValueCodec } from '../../src/context/values.js'
import type { Database } from '../../src/db/client.js'
import { createLastingDatabase } from '../../src/db/renewing-pool.js'
import { type Fault, InvalidInputError, NotFoundError } from '../../src/errors.js'
import { writeJob } from '../../src/outbox/message.js'
import { reconcileRun, stalledRuns } from '../../src/outbox/sweep.js'
import type { Broker } from '../../src/ports/broker.js'
import type { Doorbell } from '../../src/ports/doorbell.js'
import { type ResumeInput, resumeRun } from '../../src/run/resume.js'
import { createRabbitMqBroker } from '../broker/rabbitmq.js'
import { createInProcessDoorbell } from '../doorbell/in-process.js'
import { createWebhookUrls } from '../execution/webhook.js'
import type { WorkflowsModule } from '../execution/workflows.js'
import { createRelay, type Relay } from '../relay/relay.js'
import { expectSchema } from '../db/expect-schema.js'
import { startWhenReachable } from '../start-when-reachable.js'
import { sleep } from '../worker/commits.js'
import { createWorker, type Worker } from '../worker/worker.js'
import { InMemoryCoordinationStore } from './coordination-store.js'
import { announceEnqueued, announceProcessed } from './job-events.js'
import { checkOptions, checkThreshold, type RabbitMqAdapterOptions, workerPartOf } from './options.js'

export interface ReconcileOptions {
	/** Grace before a message counts as lost, in seconds. Default: the adapter's `stalledMs`. */
	readonly stalledThresholdSeconds?: number
}

/** Longest wait for the answer of a broker client that was just made, in ms. */
const CONNECT_PATIENCE_MS = 2_000
const CONNECT_POLL_MS = 25

interface Engine {
	readonly worker: Worker
	readonly relay: Relay | undefined
	/** Settles when it runs, or cannot. */
	started: Promise<void>
	isStopWanted: boolean
}

export class RabbitMqAdapter extends BaseDistributedAdapter {
	/** Flowcraft's default unless `runtimeOptions.logger` is given. */
	declare readonly logger: ILogger
	readonly #options: RabbitMqAdapterOptions
	readonly #queue: string
	readonly #stalledMs: number
	readonly #codec: ValueCodec
	readonly #ownDoorbell: Doorbell
	#database: Database | undefined
	#broker: { readonly client: Broker; readonly madeAt: number } | undefined
	#engine: Engine | undefined
	#stopping: Promise<void> | undefined

	/**
	 * Opens nothing yet.
	 * @throws TypeError that lists every invalid option
	 */
	constructor(options: RabbitMqAdapterOptions) {
		checkOptions(options)
		super({
			runtimeOptions: options.runtimeOptions as AdapterOptions['runtimeOptions'],
			coordinationStore: options.coordinationStore ?? new InMemoryCoordinationStore(),
			...(options.eventBus === undefined ? {} : { eventBus: options.eventBus }),
		})
		this.#options = options
		this.#queue = options.queueName ?? 'flowcraft-jobs'
		this.#stalledMs = options.stalledMs ?? 30_000
		this.#codec = createValueCodec(options.runtimeOptions.serializer)
		this.#ownDoorbell = createInProcessDoorbell({ logger: this.logger })
	}

	/**
	 * Registers the blueprints and takes up work; resolves when that stands, waiting for Postgres as long as it takes.
	 * Calling it again changes nothing. After `stop` it may be started anew.
	 *
	 * @throws if the migrations were not applied, a blueprint is invalid or contradicts a registered version, or while
	 * `stop` is under way. Nothing is left open then.
	 */
	// oxlint-disable-next-line typescript/no-misused-promises -- whoever knows Flowcraft's `start` may ignore the promise
	override start(): Promise<void> {
		if (this.#stopping !== undefined)
			return Promise.reject(
				new Error('The adapter is stopping: await stop() before starting it again.'),
			)
		this.#engine ??= this.#createEngine()
		return this.#engine.started
	}

	/**
	 * Takes nothing new, lets running nodes end for `drainMs` at most, gives the rest back and closes what was opened.
	 * Does nothing more when nothing is open.
	 */
	stop(): Promise<void> {
		this.#stopping ??= this.#close().finally(() => {
			this.#stopping = undefined
		})
		return this.#stopping
	}

	/**
	 * Emits again what of this run could run but has no worker and no message: nodes whose worker died, and nodes, due
	 * timers and parents of ended children whose message is lost. The next relay publishes them. What runs, or waits in
	 * the queue, is left alone, however long it takes. Relays do the same for all runs by themselves.
	 *
	 * @returns the ids of the nodes that were emitted; empty for a run that has ended or is paused
	 * @throws NotFoundError for an unknown run
	 */
	override async reconcile(runId: string, options: ReconcileOptions = {}): Promise<Set<string>> {
		const stalledMs = this.#graceOf(options)
		const { status, emitted } = await reconcileRun(this.#sql, runId, stalledMs, await this.#hasBacklog())
		if (status === null) throw new NotFoundError(`There is no run '${runId}'.`)
		if (emitted.length > 0) {
			this.logger.warn('Nodes of a run were emitted again', { runId, nodes: emitted })
			this.#doorbell.ring({ type: 'outbox' })
		}
		return new Set(emitted)
	}

	/** Ids of runs that `reconcile` would find something to do for, in their order, at most `limit` of those after `after`. */
	async stalledRuns(
		options: ReconcileOptions & { readonly after?: string; readonly limit?: number } = {},
	): Promise<string[]> {
		return stalledRuns(
			this.#sql,
			options.after ?? '',
			this.#graceOf(options),
			await this.#hasBacklog(),
			options.limit ?? 500,
		)
	}

	/**
	 * Ends the wait of a node; a worker continues from there, along the edges that the action selects.
	 *
	 *     await adapter.resumeWithAction(runId, 'approve', { reviewer: 'Ada' })
	 *     await adapter.resumeWithAction(runId, { nodeId: 'review', action: 'approve', output: { reviewer: 'Ada' } })
	 *
	 * Flowcraft's own ends every wait of the run at once and answers with the successors. Here one wait ends: with
	 * several, the second form has to name the node; and the answer is that node, since its successors are found when it
	 * completes.
	 *
	 * @throws NotFoundError; ConflictError if nothing waits, or several nodes do and none was named; InvalidInputError
	 */
	resumeWithAction(runId: string, action: string, output?: unknown): Promise<Set<string>>
	resumeWithAction(runId: string, resume?: ResumeInput): Promise<Set<string>>
	async resumeWithAction(
		runId: string,
		resume: string | ResumeInput = {},
		output?: unknown,
	): Promise<Set<string>> {
		const input =
			typeof resume === 'string'
				? { action: resume, ...(output === undefined ? {} : { output }) }
				: resume
		checkResume(input)
		const { nodeId } = await resumeRun(this.#sql, runId, input, this.#codec)
		this.#doorbell.ring({ type: 'outbox' })
		return new Set([nodeId])
	}

	/**
	 * A URL that takes one request, within a week, for a node of a user's own. `workflowState.markAsAwaiting(nodeId,
	 * { eventName: event })` waits for that request, and so does a `wait` node with what this returns as its input. It is
	 * usable at once; repeated calls, as a node's next attempt makes, give the same until it is used or has expired. Nodes
	 * with `uses: 'webhook'` do not need this.
	 */
	registerWebhookEndpoint(runId: string, nodeId: string): Promise<{ url: string; event: string }> {
		return createWebhookUrls(this.#sql, this.#options).register(runId, nodeId)
	}

	// ── What the base class asks of an adapter ───────────────────────────────────────────────────────────────────────

	/** The run's context as it is committed. Nodes get one that buffers what they write until their own commit. */
	protected override createContext(runId: string): PostgresContext {
		return new PostgresContext(runId, { client: this.#sql, codec: this.#codec })
	}

	/**
	 * Puts a job's message into the queue. It is a hint: a worker runs the node if it is ready, and drops the message
	 * otherwise. The engine's own messages go through the outbox.
	 * @throws if RabbitMQ did not confirm it
	 */
	protected override async enqueueJob({ runId, blueprintId, nodeId }: JobPayload): Promise<void> {
		const body = writeJob({ key: { runId, nodeId, generation: '', recovers: '' }, blueprintId })
		const [outcome] = await this.#client.publish([
			{ messageId: crypto.randomUUID(), routingKey: this.#queue, body },
		])
		if (outcome?.status !== 'confirmed')
			throw new Error(`The job was not enqueued: ${outcome?.reason ?? 'the broker gave no answer'}`)
	}

	/** A job that comes by another way than the queue takes that way: only a claim may run a node. */
	protected override handleJob(job: JobPayload): Promise<void> {
		return this.enqueueJob(job)
	}

	/** Attempts come back through the outbox and hold no worker meanwhile. */
	protected override shouldRetryInProcess(): boolean {
		return false
	}

	protected override processJobs(): void {
		throw notOurs('processJobs', 'the worker takes its deliveries itself, and start() starts it')
	}

	protected override async isReadyForFanIn(): Promise<boolean> {
		throw notOurs('isReadyForFanIn', 'Postgres counts the arrivals at a join, in the commit of each node')
	}

	protected override async publishFinalResult(): Promise<void> {
		throw notOurs('publishFinalResult', 'a run ends in the commit of its last live node')
	}

	// ── What it is made of ───────────────────────────────────────────────────────────────────────────────────────────

	#createEngine(): Engine {
		const { runtimeOptions, eventBus, relay: isRelayWanted = true } = this.#options
		const broker =
			eventBus === undefined ? this.#client : announceEnqueued(this.#client, this.#queue, eventBus)
		const common = { broker, doorbell: this.#doorbell, logger: this.logger, queue: this.#queue }
		const workflows: WorkflowsModule = {
			...runtimeOptions,
			// As Flowcraft's base class does: a node may ask the adapter that runs it.
			dependencies: { ...runtimeOptions.dependencies, adapter: this },
			...(eventBus === undefined
				? {}
				: { eventBus: announceProcessed(runtimeOptions.eventBus, eventBus) }),
		}
		const worker = createWorker({
			...workerPartOf(this.#options),
			...common,
			databaseUrl: this.#options.databaseUrl,
			workflows,
		})
		const relay = isRelayWanted
			? createRelay({ ...common, db: this.#sql, stalledMs: this.#stalledMs })
			: undefined
		const engine: Engine = { worker, relay, started: Promise.resolve(), isStopWanted: false }
		engine.started = this.#startEngine(engine)
		return engine
	}

	async #startEngine(engine: Engine): Promise<void> {
		try {
			await startWhenReachable('The adapter', this.logger, async () => {
				if (engine.isStopWanted) return
				await expectSchema(this.#options.databaseUrl)
				await engine.worker.start()
			})
		} catch (error) {
			await this.#closeParts(engine)
			throw error
		}
		if (!engine.isStopWanted) engine.relay?.start()
	}

	async #close(): Promise<void> {
		const engine = this.#engine
		if (engine !== undefined) {
			engine.isStopWanted = true
			// A start that fails has its own caller.
			await engine.started.catch(() => {})
		}
		await this.#closeParts(this.#engine)
	}

	/** The relay last: what the worker gives back is published for others. */
	async #closeParts(engine: Engine | undefined): Promise<void> {
		await engine?.worker.stop()
		await engine?.relay?.stop()
		const [broker, database] = [this.#broker, this.#database]
		this.#engine = undefined
		this.#broker = undefined
		this.#database = undefined
		await Promise.all([broker?.client.close(), database?.close(), this.#ownDoorbell.close()])
	}

	/** For the relay, contexts and the methods; the worker has a pool of its own. */
	get #sql(): Database['sql'] {
		this.#database ??= createLastingDatabase(this.#options.databaseUrl, {
			max: 4,
			applicationName: 'flowcraft-adapter',
		})
		return this.#database.sql
	}

	get #client(): Broker {
		return (this.#broker ??= { client: this.#createBroker(), madeAt: performance.now() }).client
	}

	get #doorbell(): Doorbell {
		return this.#options.doorbell ?? this.#ownDoorbell
	}

	#createBroker(): Broker {
		const { amqpConnection, amqpUrl } = this.#options
		return createRabbitMqBroker({
			...(amqpConnection === undefined ? {} : { connection: amqpConnection }),
			...(amqpUrl === undefined ? {} : { url: amqpUrl }),
			queues: [this.#queue],
			logger: this.logger,
		})
	}

	/** Whether messages wait in the queue; true as well if RabbitMQ does not tell, for then nothing is known to be lost. */
	async #hasBacklog(): Promise<boolean> {
		const client = this.#client
		const madeAt = this.#broker?.madeAt ?? 0
		for (;;) {
			const depth = await client.depth(this.#queue)
			if (depth !== undefined) return depth > 0
			if (performance.now() - madeAt > CONNECT_PATIENCE_MS) return true
			await sleep(CONNECT_POLL_MS)
		}
	}

	#graceOf({ stalledThresholdSeconds }: ReconcileOptions): number {
		if (stalledThresholdSeconds === undefined) return this.#stalledMs
		checkThreshold(stalledThresholdSeconds)
		return Math.round(stalledThresholdSeconds * 1000)
	}
}

function notOurs(method: string, instead: string): Error {
	return new Error(`RabbitMqAdapter has no use for ${method}: ${instead}.`)
}

function checkResume(input: unknown): asserts input is ResumeInput {
	if (typeof input !== 'object' || input === null)
		throw new InvalidInputError('The run cannot be resumed', [
			{ path: '', message: 'must be an action, or an object' },
		])
	const faults: Fault[] = []
	for (const [name, value] of Object.entries(input)) {
		if (!['nodeId', 'action', 'output'].includes(name))
			faults.push({ path: `/${name}`, message: 'is unknown; expected nodeId, action and output' })
		else if (name !== 'output' && value !== undefined && typeof value !== 'string')
			faults.push({ path: `/${name}`, message: 'must be text' })
	}
	if (faults.length > 0) throw new InvalidInputError('The run cannot be resumed', faults)
}
