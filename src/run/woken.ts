/** What events and webhooks have in common: what they resume nodes with, and which nodes that were. */
import type { ValueCodec } from '../context/values.js'

export interface WokenNode {
	readonly runId: string
	readonly nodeId: string
}

export interface WokenRow extends Record<string, unknown> {
	runs: string
	nodes: string
}

export function wokenNodes({ runs, nodes }: WokenRow): WokenNode[] {
	const nodeIds = JSON.parse(nodes) as string[]
	return (JSON.parse(runs) as string[]).map((runId, position) => ({
		runId,
		nodeId: nodeIds[position] ?? '',
	}))
}

/** What a waiting node is resumed with; its output as text, as the codec wrote it. */
export function resumeWith(output: unknown, name: string, codec: ValueCodec): string {
	return JSON.stringify(output === undefined ? {} : { output: codec.encode(name, output) })
}
