/** An app on a database of its own, asked as clients ask it. */
import { type AppOptions, createApp } from '../../functions/app.js'
import type { App } from '../../functions/endpoint.js'
import { createDatabase, type Database } from '../../src/db/client.js'
import { query } from '../../src/db/query.js'
import { freshDatabase } from '../support/services/index.js'
import { expectDeclared } from './declared.js'

export interface Answer {
	readonly status: number
	readonly headers: Headers
	readonly text: string
	readonly body: any
}

export interface SendOptions {
	/** JSON, or text to be sent as it stands. */
	readonly body?: unknown
	readonly headers?: Readonly<Record<string, string>>
}

export interface TestApi {
	/** Of the database. */
	readonly url: string
	readonly database: Database
	send(method: string, path: string, options?: SendOptions): Promise<Answer>
	get(path: string, headers?: Readonly<Record<string, string>>): Promise<Answer>
	post(path: string, body?: unknown, headers?: Readonly<Record<string, string>>): Promise<Answer>
	put(path: string, body: unknown, headers?: Readonly<Record<string, string>>): Promise<Answer>
	/** How many rows each table has that a request could write to. */
	rowCounts(): Promise<Record<string, number>>
	rows<T extends Record<string, unknown>>(text: string, ...parameters: string[]): Promise<T[]>
	stop(): Promise<void>
}

/** One node that no worker will ever run: its runs stay as they are. */
export const IDLE_BLUEPRINT = { id: 'idle', nodes: [{ id: 'only', uses: 'nobody' }], edges: [] }

const TABLES = [
	'statuses',
	'contexts',
	'nodes',
	'outbox',
	'transitions',
	'idempotency_keys',
	'blueprints',
	'blueprint_heads',
]

/** With `IDLE_BLUEPRINT` registered. */
export async function startApi(options: Partial<AppOptions> = {}): Promise<TestApi> {
	const fresh = await freshDatabase()
	const database = createDatabase(fresh.url, { max: 5 })
	const app = createApp({ db: database, ...options })
	const registrar = createApp({ db: database })
	const registered = await ask(registrar, 'PUT', '/blueprints/idle', { body: IDLE_BLUEPRINT })
	if (registered.status !== 201) throw new Error(`The blueprint was refused: ${registered.text}`)

	const send = (method: string, path: string, sendOptions?: SendOptions): Promise<Answer> =>
		ask(app, method, path, sendOptions)
	return {
		url: fresh.url,
		database,
		send,
		get: (path, headers = {}) => send('GET', path, { headers }),
		post: (path, body, headers = {}) => send('POST', path, { body, headers }),
		put: (path, body, headers = {}) => send('PUT', path, { body, headers }),
		async rowCounts() {
			const [row] = await query<Record<string, number>>(
				database.sql,
				`select ${TABLES.map((table) => `(select count(*)::int from flowcraft_${table}) as ${table}`).join(', ')}`,
			)
			return { ...row }
		},
		rows: (text, ...parameters) => query(database.sql, text, parameters),
		async stop() {
			await database.close()
			await fresh.drop()
		},
	}
}

/** Sends one request to an app, which has to answer as its document says. */
export async function ask(
	app: Pick<App, 'request'>,
	method: string,
	path: string,
	{ body, headers = {} }: SendOptions = {},
): Promise<Answer> {
	const response = await app.request(path, {
		method,
		headers: body === undefined ? headers : { 'content-type': 'application/json', ...headers },
		...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
	})
	const text = await response.text()
	const answer = {
		status: response.status,
		headers: response.headers,
		text,
		body: /json/.test(response.headers.get('content-type') ?? '') ? JSON.parse(text) : undefined,
	}
	expectDeclared(method, path, answer)
	return answer
}

/** What the faults of a problem are about: `body /input/x`. */
export function faultPaths(answer: Answer): string[] {
	return (answer.body.errors ?? []).map(
		(fault: { in: string; path: string }) => `${fault.in} ${fault.path}`,
	)
}
