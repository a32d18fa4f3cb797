/**
 * A run's context from outside its nodes, under the name and the interface that Flowcraft users know. Each write is one
 * statement that takes effect at once; inside a node, use the context that the node is given.
 */
import type { IAsyncContext, PatchOperation } from 'flowcraft'
import { type Executor, query, textArray } from '../db/query.js'
import { NotFoundError } from '../errors.js'
import { type ContextReader, createContextReader } from './reading.js'
import { checkKey, createValueCodec, type ValueCodec } from './values.js'

export interface PostgresContextOptions {
	/** postgres.js or Drizzle: a client, or a transaction of the caller's. */
	readonly client: Executor
	/** How values are written. Default: plain JSON. */
	readonly codec?: ValueCodec
}

export class PostgresContext implements IAsyncContext<Record<string, unknown>> {
	readonly type = 'async' as const
	private readonly db: Executor
	private readonly reader: ContextReader
	private readonly codec: ValueCodec

	constructor(
		private readonly runId: string,
		options: PostgresContextOptions,
	) {
		this.db = options.client
		this.reader = createContextReader(options.client)
		this.codec = options.codec ?? createValueCodec()
	}

	async get(key: string): Promise<unknown> {
		const text = await this.read(key)
		return text === undefined ? undefined : this.codec.decode(text)
	}

	async has(key: string): Promise<boolean> {
		return (await this.read(key)) !== undefined
	}

	/** @throws NotFoundError for an unknown run; UnstorableValueError */
	async set(key: string, value: unknown): Promise<void> {
		await this.patch([{ op: 'set', key, value }])
	}

	/** Whether there was something to delete. */
	async delete(key: string): Promise<boolean> {
		if (!(await this.has(key))) return false
		await this.patch([{ op: 'delete', key }])
		return true
	}

	async toJSON(): Promise<Record<string, unknown>> {
		const entries = await this.reader.readAll(this.runId)
		return Object.fromEntries([...entries].map(([key, text]) => [key, this.codec.decode(text)]))
	}

	/** All operations or none. */
	async patch(operations: PatchOperation[]): Promise<void> {
		if (operations.length === 0) return
		for (const { key } of operations) checkKey(key)
		const [row] = await query<{ written: boolean }>(
			this.db,
			'select flowcraft_write_context($1::text, $2::text::text[], $3::text::text[]) as written',
			[
				this.runId,
				textArray(operations.map(({ key }) => key)),
				textArray(
					operations.map((operation) =>
						operation.op === 'set' ? this.codec.encode(operation.key, operation.value) : null,
					),
				),
			],
		)
		if (row?.written !== true) throw new NotFoundError(`There is no run '${this.runId}'.`)
	}

	private async read(key: string): Promise<string | null | undefined> {
		if (key.includes('\u0000') || !key.isWellFormed()) return undefined
		return (await this.reader.readKeys(this.runId, [key])).get(key)
	}
}
