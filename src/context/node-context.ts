/**
 * The context that a running node sees: what is committed, plus its own writes. Writes are buffered and land only in
 * the node's commit; a failed attempt leaves none.
 */
import type { IAsyncContext, PatchOperation } from 'flowcraft'
import type { ContextReader } from './reading.js'
import { checkKey, type ValueCodec } from './values.js'

type Write = { readonly value: unknown } | 'deleted'

export class BufferedContext implements IAsyncContext<Record<string, unknown>> {
	readonly type = 'async' as const
	private readonly writes = new Map<string, Write>()
	/** Committed values that were read, decoded; a key that does not exist is remembered as `undefined`. */
	private readonly known = new Map<string, { readonly exists: boolean; readonly value: unknown }>()
	private queued: { readonly keys: Set<string>; readonly done: Promise<void> } | undefined
	private closedBecause: string | undefined

	constructor(
		private readonly reader: ContextReader,
		private readonly runId: string,
		private readonly codec: ValueCodec,
	) {}

	async get(key: string): Promise<unknown> {
		const write = this.writes.get(key)
		if (write !== undefined) return write === 'deleted' ? undefined : write.value
		return (await this.load(key)).value
	}

	async has(key: string): Promise<boolean> {
		const write = this.writes.get(key)
		if (write !== undefined) return write !== 'deleted'
		return (await this.load(key)).exists
	}

	async set(key: string, value: unknown): Promise<void> {
		this.write(key, { value })
	}

	/** Whether there was something to delete. */
	async delete(key: string): Promise<boolean> {
		const existed = await this.has(key)
		if (existed) this.write(key, 'deleted')
		return existed
	}

	async patch(operations: PatchOperation[]): Promise<void> {
		for (const operation of operations)
			this.write(operation.key, operation.op === 'set' ? { value: operation.value } : 'deleted')
	}

	/** The whole context. The only read whose cost grows with the run. */
	async toJSON(): Promise<Record<string, unknown>> {
		const entries = new Map<string, unknown>()
		for (const [key, text] of await this.reader.readAll(this.runId))
			entries.set(key, this.codec.decode(text))
		for (const [key, write] of this.writes) {
			if (write === 'deleted') entries.delete(key)
			else entries.set(key, write.value)
		}
		return toRecord(entries)
	}

	/** The asked keys that exist, after the node's own writes. */
	async pick(keys: readonly string[]): Promise<Record<string, unknown>> {
		const entries = new Map<string, unknown>()
		await Promise.all(
			keys.map(async (key) => {
				if (await this.has(key)) entries.set(key, await this.get(key))
			}),
		)
		return toRecord(entries)
	}

	/** Ends the writing: whatever a node still does after its end comes too late to count. */
	close(because: string): void {
		this.closedBecause = because
	}

	/**
	 * What was written, as it is stored; null deletes.
	 * @throws UnstorableValueError naming the key
	 */
	written(): [key: string, text: string | null][] {
		return [...this.writes].map(([key, write]) => {
			checkKey(key)
			return [key, write === 'deleted' ? null : this.codec.encode(key, write.value)]
		})
	}

	private write(key: string, write: Write): void {
		if (this.closedBecause !== undefined)
			throw new Error(`The context of run '${this.runId}' takes no more writes: ${this.closedBecause}.`)
		this.writes.set(key, write)
	}

	/** Reads that are asked for in the same turn of the event loop share one statement. */
	private async load(key: string): Promise<{ readonly exists: boolean; readonly value: unknown }> {
		const known = this.known.get(key)
		if (known !== undefined) return known
		// A key that Postgres cannot hold cannot exist.
		if (key.includes('\u0000') || !key.isWellFormed()) return { exists: false, value: undefined }
		if (this.queued === undefined) {
			const keys = new Set<string>()
			this.queued = { keys, done: this.readQueued(keys) }
		}
		const { keys, done } = this.queued
		keys.add(key)
		await done
		return this.known.get(key) ?? { exists: false, value: undefined }
	}

	private async readQueued(keys: Set<string>): Promise<void> {
		await Promise.resolve()
		this.queued = undefined
		const found = await this.reader.readKeys(this.runId, [...keys])
		for (const key of keys) {
			const text = found.get(key)
			this.known.set(
				key,
				text === undefined
					? { exists: false, value: undefined }
					: { exists: true, value: this.codec.decode(text) },
			)
		}
	}
}

/** An object with exactly these entries: a key like `__proto__` is one among others. */
function toRecord(entries: ReadonlyMap<string, unknown>): Record<string, unknown> {
	return Object.fromEntries(entries)
}
