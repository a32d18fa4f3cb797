/** What the tests have the client do inside each runtime: start a run, hear its events, wait for its end, fail. */
import { createClient, NotFoundError } from '../../src/client/index.js'

export interface Heard {
	readonly events: readonly string[]
	readonly status: string
	readonly input: unknown
	readonly output: unknown
	readonly nodes: readonly string[]
	/** Of a run that does not exist. */
	readonly error: string
}

export async function useClient(url: string, apiKey: string): Promise<Heard> {
	const client = createClient({ url, apiKey })
	const { runId } = await client.start('doubled', { input: { ü: '€' } })
	const events: string[] = []
	for await (const { id, type } of client.events(runId)) events.push(`${id} ${type}`)
	const { status, result } = await client.wait(runId)
	const nodes: string[] = []
	for await (const node of client.nodes(runId, { limit: 1 })) nodes.push(node.nodeId)
	const error = await client.get('nothing').then(
		() => 'none',
		(thrown: unknown) => (thrown instanceof NotFoundError ? thrown.name : String(thrown)),
	)
	const { ü: input, second: output } = result?.context ?? {}
	return { events, status, input, output, nodes, error }
}
