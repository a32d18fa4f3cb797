/**
 * The options of `RabbitMqAdapter`. Those that Flowcraft's own adapter has keep their names; what differs is refused
 * with what to pass instead, for callers without types too.
 */
import type { ChannelModel } from 'amqplib'
import type { AdapterOptions, ICoordinationStore } from 'flowcraft'
import type { Doorbell } from '../../src/ports/doorbell.js'
import type { WorkflowsModule } from '../execution/workflows.js'
import type { WorkerOptions } from '../worker/worker.js'

/** What an adapter hands on to its worker as it stands. */
const WORKER_PART = [
	'concurrency',
	'leaseMs',
	'drainMs',
	'unrunnableLimitMs',
	'maxInARow',
	'poolSize',
	'transactionPoolSize',
	'publicUrl',
	'webhookSecret',
	'name',
] as const satisfies readonly (keyof WorkerOptions)[]

type WorkerPart = Pick<WorkerOptions, (typeof WORKER_PART)[number]>

export interface RabbitMqAdapterOptions
	extends Omit<AdapterOptions, 'runtimeOptions' | 'coordinationStore'>, WorkerPart {
	/** Blueprints, registry and the rest, as for `FlowRuntime`. A blueprint may also be a `createFlow` builder. */
	readonly runtimeOptions: WorkflowsModule
	/**
	 * `postgres://user:password@host:5432/database`. A URL and no client, because a worker's heartbeat comes from a
	 * thread with a connection of its own, which a client cannot be handed to. The migrations must have been applied.
	 */
	readonly databaseUrl: string
	/**
	 * An open connection of amqplib's, for consuming and publishing alike. It stays the caller's: it is not closed here,
	 * and not replaced when it ends, which ends this adapter's work until it is made anew.
	 */
	readonly amqpConnection?: ChannelModel
	/** Instead of `amqpConnection`: connections are opened here, and again whenever they are lost. */
	readonly amqpUrl?: string
	/** Default `flowcraft-jobs`. Declared as a durable quorum queue with a dead-letter queue beside it. */
	readonly queueName?: string
	/** For nodes and subclasses that use it. No result depends on it. Default: one in the memory of this process. */
	readonly coordinationStore?: ICoordinationStore
	/** Run a relay too. Default true; with false another process has to (`createRelay`, `npm run start:relay`). */
	readonly relay?: boolean
	/** Wakes relays and workers early. It stays the caller's. Default: one within this process. */
	readonly doorbell?: Doorbell
	/** Grace before a message counts as lost, of the relay and of `reconcile`, in ms. Default 30000. */
	readonly stalledMs?: number
	/** The tables' names are fixed; these may be given, but no others. */
	readonly contextTableName?: 'flowcraft_contexts'
	readonly statusTableName?: 'flowcraft_statuses'
	/** Not taken: pass `databaseUrl`. */
	readonly pgClient?: never
}

/** Of these options, those that were given. */
export function workerPartOf(options: WorkerPart): WorkerPart {
	const given = WORKER_PART.filter((name) => options[name] !== undefined)
	return Object.fromEntries(given.map((name) => [name, options[name]]))
}

/** @throws TypeError that lists every fault */
export function checkOptions(options: RabbitMqAdapterOptions): void {
	const given: Readonly<Partial<Record<keyof RabbitMqAdapterOptions, unknown>>> = options
	const faults: string[] = []
	const isUrl = (value: unknown, ...protocols: string[]): boolean =>
		typeof value === 'string' && URL.canParse(value) && protocols.includes(new URL(value).protocol)
	const isConnection = (value: unknown): boolean =>
		typeof value === 'object' &&
		value !== null &&
		'createConfirmChannel' in value &&
		typeof value.createConfirmChannel === 'function'

	if (given.pgClient !== undefined) {
		faults.push(
			'pgClient is not taken: pass databaseUrl, the URL that the client connects to, instead (a client cannot be handed to the thread of the heartbeat)',
		)
	} else if (!isUrl(given.databaseUrl, 'postgres:', 'postgresql:')) {
		// Not quoted: it may hold a password.
		faults.push(
			'databaseUrl must be a URL like postgres://user:password@host:5432/database, not a client',
		)
	}
	if ((given.amqpConnection === undefined) === (given.amqpUrl === undefined)) {
		faults.push('exactly one of amqpConnection and amqpUrl must be given')
	} else if (given.amqpConnection !== undefined && !isConnection(given.amqpConnection)) {
		faults.push("amqpConnection must be what amqplib's connect() resolves with: await it first")
	} else if (given.amqpUrl !== undefined && !isUrl(given.amqpUrl, 'amqp:', 'amqps:')) {
		faults.push('amqpUrl must be a URL like amqp://user:password@host:5672/vhost')
	}
	if (typeof given.runtimeOptions !== 'object' || given.runtimeOptions === null) {
		faults.push('runtimeOptions must be an object with blueprints and registry, as for FlowRuntime')
	}
	if (given.publicUrl !== undefined && !isUrl(given.publicUrl, 'http:', 'https:'))
		faults.push('publicUrl must be an http or https URL')
	if (
		given.webhookSecret !== undefined &&
		!(typeof given.webhookSecret === 'string' && given.webhookSecret.length >= 32)
	) {
		faults.push('webhookSecret must be text of at least 32 characters')
	}
	if (
		given.queueName !== undefined &&
		!(typeof given.queueName === 'string' && /^[\w.-]{1,200}$/.test(given.queueName))
	) {
		faults.push('queueName must consist of letters, digits, dots, dashes and underscores, 200 at most')
	}
	for (const fault of [
		tableNameFault('contextTableName', given.contextTableName, 'flowcraft_contexts'),
		tableNameFault('statusTableName', given.statusTableName, 'flowcraft_statuses'),
	]) {
		if (fault !== undefined) faults.push(fault)
	}
	if (given.concurrency !== undefined && !isWithin(given.concurrency, 1, 65_535))
		faults.push('concurrency must be a whole number from 1 to 65535')
	if (given.maxInARow !== undefined && !isWithin(given.maxInARow, 1, 1_000_000))
		faults.push('maxInARow must be a whole number of at least 1')
	if (given.poolSize !== undefined && !isWithin(given.poolSize, 1, 200))
		faults.push('poolSize must be a whole number from 1 to 200')
	if (given.transactionPoolSize !== undefined && !isWithin(given.transactionPoolSize, 1, 200))
		faults.push('transactionPoolSize must be a whole number from 1 to 200')
	for (const name of ['leaseMs', 'drainMs', 'unrunnableLimitMs', 'stalledMs'] as const) {
		const least = name === 'leaseMs' ? 500 : name === 'stalledMs' ? 1 : 0
		if (given[name] !== undefined && !isWithin(given[name], least, 2 ** 31 - 1))
			faults.push(`${name} must be a whole number of ms, at least ${least}`)
	}
	if (faults.length > 0) throw new TypeError(`RabbitMqAdapter: ${faults.join('; ')}`)
}

function isWithin(value: unknown, min: number, max: number): boolean {
	return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max
}

/** What is wrong with a table's name; undefined if it is ours, or none was given. */
export function tableNameFault(option: string, given: unknown, fixed: string): string | undefined {
	if (given === undefined || given === fixed) return undefined
	return `${option} cannot be ${JSON.stringify(given)}: the table is named ${fixed}, by the migrations and by the functions in Postgres that write to it. Leave the option out; a second deployment needs a database of its own`
}

/** @throws TypeError */
export function checkThreshold(stalledThresholdSeconds: unknown): void {
	if (
		typeof stalledThresholdSeconds === 'number' &&
		Number.isFinite(stalledThresholdSeconds) &&
		stalledThresholdSeconds > 0
	)
		return
	throw new TypeError(
		`stalledThresholdSeconds must be a number of seconds greater than 0, not ${String(stalledThresholdSeconds)}`,
	)
}
