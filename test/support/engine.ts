/** A whole engine in this process, on a database of its own: for tests of what runs mean, not of how servers fail. */
import { createDatabase, type Database } from '../../src/db/client.js'
import { query } from '../../src/db/query.js'
import { startRun, type StartRunInput } from '../../src/run/start.js'
import type { Run } from '../../src/run/read.js'
import { waitForRun } from '../../src/run/wait.js'
import type { Broker } from '../../src/ports/broker.js'
import type { Logger } from '../../src/ports/logger.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import { createInProcessDoorbell } from '../../worker/doorbell/in-process.js'
import type { WorkflowsModule } from '../../worker/execution/workflows.js'
import { noLogger } from '../../src/ports/logger.js'
import { createRelay, type Relay, type RelayOptions } from '../../worker/relay/relay.js'
import { createWorker, type Worker, type WorkerOptions } from '../../worker/worker/worker.js'
import { freshDatabase } from './services/index.js'

export interface TestEngine {
	readonly url: string
	readonly database: Database
	readonly broker: Broker
	readonly relay: Relay
	/** Another worker on the same queue; stopped with the engine. */
	addWorker(workflows: WorkflowsModule, options?: Partial<WorkerOptions>): Promise<Worker>
	/** Stops all workers so far. */
	stopWorkers(): Promise<void>
	start(input: StartRunInput): Promise<string>
	/** Starts a run and waits for its end. Fails the test when it has not ended within 20 s. */
	run(input: StartRunInput): Promise<EndedRun>
	/** Waits for a run's end. @param timeoutMs default 20000 */
	end(runId: string, timeoutMs?: number): Promise<EndedRun>
	rows<T extends Record<string, unknown>>(text: string, ...parameters: string[]): Promise<T[]>
	stop(): Promise<void>
}

export interface EndedRun extends Run {
	readonly context: Record<string, unknown>
}

export interface TestEngineOptions {
	readonly workflows?: WorkflowsModule
	readonly worker?: Partial<WorkerOptions>
	readonly relay?: Partial<RelayOptions>
	/** Do not run the relay's loops: the test calls `tick()` and `sweep()` itself. */
	readonly manualRelay?: boolean
	readonly logger?: Logger
	readonly broker?: Broker
}

const QUEUE = 'flowcraft-jobs'

export async function startEngine(options: TestEngineOptions = {}): Promise<TestEngine> {
	const fresh = await freshDatabase()
	const logger = options.logger ?? noLogger
	const database = createDatabase(fresh.url, { max: 5 })
	const broker = options.broker ?? createInProcessBroker({ queues: [QUEUE], logger })
	const doorbell = createInProcessDoorbell()
	const relay = createRelay({ db: database.sql, broker, doorbell, logger, queue: QUEUE, ...options.relay })
	const workers: Worker[] = []

	const engine: TestEngine = {
		url: fresh.url,
		database,
		broker,
		relay,
		async addWorker(workflows, workerOptions = {}) {
			const worker = createWorker({
				databaseUrl: fresh.url,
				broker,
				doorbell,
				logger,
				queue: QUEUE,
				poolSize: 3,
				drainMs: 2_000,
				...workerOptions,
				workflows,
			})
			await worker.start()
			workers.push(worker)
			return worker
		},
		stopWorkers: async () => void (await Promise.all(workers.splice(0).map((worker) => worker.stop()))),
		async start(input) {
			const { runId } = await startRun(database.sql, input)
			doorbell.ring({ type: 'outbox' })
			return runId
		},
		run: async (input) => engine.end(await engine.start(input)),
		async end(runId, timeoutMs = 20_000) {
			const run = await waitForRun(database.sql, runId, { timeoutMs, maxPollMs: 50 })
			if (run?.contextJson === undefined) {
				const nodes = await engine.rows(
					'select node_id, generation, recovers, state, attempt, arrived, expected, error from flowcraft_nodes where run_id = $1',
					runId,
				)
				throw new Error(`Run ${runId} has not ended: ${JSON.stringify({ run, nodes }, null, 1)}`)
			}
			return { ...run, context: JSON.parse(run.contextJson) as Record<string, unknown> }
		},
		rows: (text, ...parameters) => query(database.sql, text, parameters),
		async stop() {
			await relay.stop()
			await Promise.all(workers.map((worker) => worker.stop()))
			await Promise.all([broker.close(), doorbell.close()])
			await database.close()
			await fresh.drop()
		},
	}
	if (options.workflows !== undefined) await engine.addWorker(options.workflows, options.worker)
	if (options.manualRelay !== true) relay.start()
	return engine
}
