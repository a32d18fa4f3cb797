/**
 * Flowcraft's reconciler by name, options and answer. Flowcraft's own takes a run for stalled when its row has not been
 * updated for a while, and so runs a slow node twice; this one looks for dead workers and lost messages, as the sweep
 * does. Where a relay runs, its sweep has mostly been there before.
 */
import { noLogger, type Logger } from '../../src/ports/logger.js'
import type { RabbitMqAdapter } from './adapter.js'
import { checkThreshold, tableNameFault } from './options.js'

export interface RabbitMqReconcilerOptions {
	/** Need not be started. */
	readonly adapter: RabbitMqAdapter
	/**
	 * Grace before the message of a node that could run counts as lost, in seconds. The same as `STALLED_MS`. Says
	 * nothing of how long a node may run.
	 */
	readonly stalledThresholdSeconds: number
	/** Default: the adapter's. */
	readonly logger?: Logger
	/** The table's name is fixed; it may be given, but no other. */
	readonly statusTableName?: 'flowcraft_statuses'
	/** Not taken: the adapter's database is used. */
	readonly pgClient?: never
}

export interface ReconciliationStats {
	/** Runs that were found stalled. */
	readonly stalledRuns: number
	/** Of these, runs of which a node was emitted again. What a sweep was faster with is missing here. */
	readonly reconciledRuns: number
	/** Of these, runs where that failed; they are logged. */
	readonly failedRuns: number
}

export interface RabbitMqReconciler {
	/**
	 * One round over all runs. May be called at any time, from any number of processes.
	 * @throws if the stalled runs cannot be found out
	 */
	run(): Promise<ReconciliationStats>
}

/** Runs per look. */
const PAGE_SIZE = 200

/** @throws TypeError for invalid options */
export function createRabbitMqReconciler(options: RabbitMqReconcilerOptions): RabbitMqReconciler {
	const { adapter, stalledThresholdSeconds, logger = adapter?.logger ?? noLogger } = options
	if (adapter === undefined) throw new TypeError('createRabbitMqReconciler: adapter must be given')
	checkThreshold(stalledThresholdSeconds)
	const fault = tableNameFault('statusTableName', options.statusTableName, 'flowcraft_statuses')
	if (fault !== undefined) throw new TypeError(`createRabbitMqReconciler: ${fault}`)
	if (options.pgClient !== undefined)
		throw new TypeError(
			"createRabbitMqReconciler: pgClient is not taken: the adapter's databaseUrl is used",
		)

	return {
		async run() {
			const stats = { stalledRuns: 0, reconciledRuns: 0, failedRuns: 0 }
			for (let after = ''; ;) {
				const page = await adapter.stalledRuns({ stalledThresholdSeconds, after, limit: PAGE_SIZE })
				for (const runId of page) {
					stats.stalledRuns += 1
					try {
						const emitted = await adapter.reconcile(runId, { stalledThresholdSeconds })
						if (emitted.size > 0) stats.reconciledRuns += 1
					} catch (error) {
						stats.failedRuns += 1
						logger.error('A stalled run could not be reconciled', { runId, error })
					}
				}
				const last = page[page.length - 1]
				if (last === undefined || page.length < PAGE_SIZE) return stats
				after = last
			}
		},
	}
}
