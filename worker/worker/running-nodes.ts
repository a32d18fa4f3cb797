/** What a worker has in hand: its slots, and how to reach what runs in them. */
import type { ClaimedNode } from '../../src/claim/claim.js'

export interface RunningNode {
	readonly claimed: ClaimedNode
	readonly abort: AbortController
}

export class RunningNodes {
	private readonly nodes = new Set<RunningNode>()
	private onEmpty: (() => void)[] = []

	get size(): number {
		return this.nodes.size
	}

	add(claimed: ClaimedNode): RunningNode {
		const running = { claimed, abort: new AbortController() }
		this.nodes.add(running)
		return running
	}

	remove(running: RunningNode): void {
		this.nodes.delete(running)
		if (this.nodes.size > 0) return
		for (const resolve of this.onEmpty) resolve()
		this.onEmpty = []
	}

	runIds(): string[] {
		return [...new Set([...this.nodes].map(({ claimed }) => claimed.key.runId))]
	}

	all(): RunningNode[] {
		return [...this.nodes]
	}

	/** Aborts what runs for these runs; for all of them without `runIds`. */
	abort(reasonFor: (runId: string) => Error, runIds?: ReadonlySet<string>): void {
		for (const { claimed, abort } of this.nodes) {
			const { runId } = claimed.key
			if (runIds === undefined || runIds.has(runId)) abort.abort(reasonFor(runId))
		}
	}

	/** Resolves when nothing runs. */
	empty(): Promise<void> {
		return this.nodes.size === 0
			? Promise.resolve()
			: new Promise((resolve) => this.onEmpty.push(resolve))
	}
}
