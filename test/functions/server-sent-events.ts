/** Server-sent events as clients read them, by means of their own: not those of `src/client`. */

export interface Told {
	readonly id?: string
	readonly event?: string
	readonly data?: any
	/** A comment. */
	readonly comment?: string
}

/** Server-sent events, as the standard has them parsed. */
export async function* readEvents(response: Response): AsyncGenerator<Told> {
	let buffered = ''
	for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
		buffered += chunk
		for (let end; (end = buffered.indexOf('\n\n')) >= 0; buffered = buffered.slice(end + 2)) {
			const fields = buffered
				.slice(0, end)
				.split('\n')
				.map((line) => /^(\w*): ?(.*)$/.exec(line) ?? [line, '', ''])
			const event = Object.fromEntries(fields.map(([, name, value]) => [name || 'comment', value]))
			yield {
				...event,
				...(event['data'] === undefined ? {} : { data: JSON.parse(event['data']) }),
			}
		}
	}
}

/** The rest of a stream, without what only keeps it alive. */
export async function rest(events: AsyncGenerator<Told>): Promise<Told[]> {
	const told: Told[] = []
	for await (const event of events) if (event.data !== undefined) told.push(event)
	return told
}

/** An event in a few words. */
export const line = ({ id, event, data }: Told): string =>
	[id ?? event, data.type, data.payload?.nodeId, data.payload?.status ?? data.status]
		.filter(Boolean)
		.join(' ')
