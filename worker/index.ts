/**
 * `flowcraft-outbox/worker`: the long-lived half, for Node. Importing this opens nothing; each `create…` and each class
 * says what it opens and when.
 *
 * Who comes from Flowcraft's guide needs `RabbitMqAdapter` and nothing else; who composes processes of their own takes
 * a broker, a relay and a worker, as `worker/*.main.ts` do.
 */

// ── Flowcraft's names ────────────────────────────────────────────────────────────────────────────────────────────────
export { RabbitMqAdapter, type ReconcileOptions } from './adapter/adapter.js'
export type { RabbitMqAdapterOptions } from './adapter/options.js'
export {
	createRabbitMqReconciler,
	type RabbitMqReconciler,
	type RabbitMqReconcilerOptions,
	type ReconciliationStats,
} from './adapter/reconciler.js'
export {
	type CoordinationRedis,
	InMemoryCoordinationStore,
	RedisCoordinationStore,
} from './adapter/coordination-store.js'

// ── Services ─────────────────────────────────────────────────────────────────────────────────────────────────────────
export { createRelay, type Relay, type RelayCounts, type RelayOptions } from './relay/relay.js'
export { createWorker, type Worker, type WorkerOptions } from './worker/worker.js'
export type { WorkflowsModule } from './execution/workflows.js'
export type { DurableDependencies, PublishOptions } from './execution/durable-dependencies.js'
export type { CommitTransaction } from './transaction/handle.js'
export type { SweepReport } from './relay/sweep.js'

// ── Brokers and doorbells ────────────────────────────────────────────────────────────────────────────────────────────
export { createRabbitMqBroker, type RabbitMqBrokerOptions } from './broker/rabbitmq.js'
export { createInProcessBroker, type InProcessBrokerOptions } from './broker/in-process.js'
export { createRedisDoorbell, type RedisDoorbellOptions } from './doorbell/redis.js'
export { createInProcessDoorbell, type InProcessDoorbellOptions } from './doorbell/in-process.js'

// ── Around them ──────────────────────────────────────────────────────────────────────────────────────────────────────
export { migrate } from './db/migrate.js'
export { createLogger, type LogLevel } from './logger.js'

// ── Why a node's `signal` was aborted ────────────────────────────────────────────────────────────────────────────────
export {
	ClaimLostError,
	NodeTimeoutError,
	RunCancelledError,
	WorkerDrainingError,
} from './execution/aborts.js'
