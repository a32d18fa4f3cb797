/**
 * A deployment that rolls: what version 1 and version 2 (`ROLLING_VERSION`) of the same workflow bring. The nodes are
 * functions of a builder, so that their implementations belong to one version, as most people's do.
 */
import { createFlow, type NodeContext, type NodeResult, WaitNode } from 'flowcraft'
import { blueprints as others, registry } from './workflows.js'

export { registry }

const version = process.env['ROLLING_VERSION'] ?? ''

const work = async (context: NodeContext): Promise<NodeResult> => {
	const result = await registry['work']?.(context)
	return { output: `v${version} ${String(result?.output)}` }
}

const flow = createFlow('lab-rolling')
	.node('a', work)
	.node('wait', WaitNode)
	.node('b', work)
	.edge('a', 'wait')
	.edge('wait', 'b')
if (version === '2') flow.node('c', work).edge('b', 'c')

export const blueprints = { ...others, 'lab-rolling': flow }
