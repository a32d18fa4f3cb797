import type { Worker } from './worker.js'

/** A worker's figures under their metrics' names. */
export function workerMetrics(worker: Worker): Record<string, number> {
	const counts = worker.counts()
	return {
		worker_running_nodes: worker.running(),
		worker_completed_nodes_total: counts.completed,
		worker_failed_nodes_total: counts.failed,
		worker_dead_letters_total: counts.deadLetters,
		worker_retried_nodes_total: counts.retry,
		worker_waiting_nodes_total: counts.waiting,
		worker_started_children_total: counts.child,
		worker_lost_claims_total: counts.lost,
		worker_released_nodes_total: counts.released,
		worker_continued_nodes_total: counts.continued,
	}
}
