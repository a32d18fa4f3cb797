/** Answers in JSON. Nothing here may be kept by caches: all of it changes under its URL. */

type HeaderFields = Readonly<Record<string, string>>

export function jsonResponse(value: unknown, status = 200, headers: HeaderFields = {}): Response {
	return jsonTextResponse(JSON.stringify(value), status, headers)
}

/** For JSON that is text already. */
export function jsonTextResponse(text: string, status = 200, headers: HeaderFields = {}): Response {
	return new Response(text, {
		status,
		headers: {
			'Content-Type': 'application/json',
			'Cache-Control': 'no-store',
			'X-Content-Type-Options': 'nosniff',
			...headers,
		},
	})
}
