/** Which node of which run: a node may run once per loop generation, and once for each failed node that it stands in for. */
export interface NodeKey {
	readonly runId: string
	readonly nodeId: string
	/** '' outside loops. */
	readonly generation: string
	/** '' for an ordinary node; for a fallback the JSON array of the failed nodes it stands in for, nearest first. */
	readonly recovers: string
}

/** The failed nodes that a fallback stands in for, nearest first; empty for an ordinary node. */
export function recoveredBy(recovers: string): string[] {
	return recovers === '' ? [] : (JSON.parse(recovers) as string[])
}

/** The inverse of `recoveredBy`. */
export function recoversOf(nodeIds: readonly string[]): string {
	return nodeIds.length === 0 ? '' : JSON.stringify(nodeIds)
}

/** One text per key, to look things up by. */
export function keyText(key: NodeKey): string {
	return JSON.stringify([key.runId, key.nodeId, key.generation, key.recovers])
}
