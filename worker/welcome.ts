/** What `npm start` prints when it is ready: where it is, and commands that work with what is there. */

export interface Welcome {
	readonly url: string
	/** Of the embedded Postgres; undefined if the servers are the user's. */
	readonly dataDir: string | undefined
	/** What the worker has brought. */
	readonly blueprints: readonly string[]
	/** Whether requests need a key. */
	readonly needsKey: boolean
}

const EXAMPLE = 'content-moderation'
const EXAMPLE_INPUT = { userId: 'user-1', userPost: 'Call me on +1 212 555 0188' }

export function welcome({ url, dataDir, blueprints, needsKey }: Welcome): string {
	const where =
		dataDir === undefined ? 'your Postgres, RabbitMQ and Redis' : `an embedded Postgres in ${dataDir}`
	const authorization = needsKey ? ` -H 'authorization: Bearer <one of API_KEYS>'` : ''
	const hasExample = blueprints.includes(EXAMPLE)
	const [first] = blueprints
	const start =
		first === undefined
			? `WORKFLOWS has brought no blueprint. Register one with PUT ${url}/blueprints/<id>.`
			: `Start a run${blueprints.length > 1 ? ` (of ${blueprints.join(', ')})` : ''}:
  curl -s ${url}/runs -H 'content-type: application/json'${authorization} \\
    -d ${quoted(hasExample ? { blueprint: EXAMPLE, input: EXAMPLE_INPUT } : { blueprint: first, input: {} })}

Read its result (put the runId in):
  curl -s '${url}/runs/RUN_ID?wait=20s'${authorization}`
	return `
flowcraft-outbox runs at ${url}, on ${where}.

${start}

The API: ${url}/docs   ${hasExample ? 'All sample posts: npm run demo   ' : ''}Stop: Ctrl-C
`
}

/** For a shell. */
const quoted = (body: object): string => `'${JSON.stringify(body).replaceAll("'", `'\\''`)}'`
