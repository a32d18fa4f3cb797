/** Reading server-sent events from a response. */

export interface ServerSentEvent {
	readonly event: string
	readonly data: string
	/** As it stands after this event. */
	readonly id: string | undefined
}

/**
 * The events of a body, as the HTML standard has them parsed; what comes before an empty line is not given out if the body
 * ends there. Calls `onAlive` for whatever comes, comments included.
 */
export async function* readServerSentEvents(
	body: ReadableStream<Uint8Array>,
	onAlive: () => void,
): AsyncGenerator<ServerSentEvent, void, undefined> {
	const reader = body.getReader()
	const decoder = new TextDecoder()
	let text = ''
	let event = ''
	let data: string[] = []
	let id: string | undefined
	try {
		for (;;) {
			const { done, value } = await reader.read()
			if (done) return
			onAlive()
			text += decoder.decode(value, { stream: true })
			// A carriage return at the end may be half of a line's end.
			const lines = text.split(/\r\n|\n|\r(?!$)/)
			text = lines.pop() ?? ''
			for (const line of lines) {
				if (line === '') {
					if (data.length > 0) yield { event: event || 'message', data: data.join('\n'), id }
					event = ''
					data = []
					continue
				}
				const [, field = '', given = ''] = /^([^:]*):? ?(.*)$/s.exec(line) ?? []
				if (field === 'data') data.push(given)
				else if (field === 'event') event = given
				else if (field === 'id' && !given.includes('\u0000')) id = given
			}
		}
	} finally {
		// Also when the consumer stops in the middle: the connection is of no use any more.
		await reader.cancel().catch(() => {})
	}
}
