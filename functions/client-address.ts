/** Where a request comes from, as far as that can be known. */

/** What `@hono/node-server` tells of a request; other hosts tell the address in a header. */
interface NodeBindings {
	readonly incoming?: { readonly socket?: { readonly remoteAddress?: string } }
}

/**
 * The address as a key for limits, undefined if it is not known. Of an IPv6 address its first 64 bits: the rest is
 * whatever the client likes.
 * @param header where a proxy that we trust writes it; of a list, its last entry, which the nearest proxy has added
 */
export function clientAddress(headers: Headers, bindings: unknown, header?: string): string | undefined {
	const given =
		header === undefined
			? (bindings as NodeBindings | undefined)?.incoming?.socket?.remoteAddress
			: headers.get(header)?.split(',').at(-1)?.trim()
	return given === undefined || given === '' ? undefined : network(given)
}

function network(address: string): string {
	const text = address.toLowerCase().replace(/^\[|\](:\d+)?$|%.*$/g, '')
	const mapped = /^::ffff:(\d{1,3}(?:\.\d{1,3}){3})$/.exec(text)?.[1]
	if (mapped !== undefined) return mapped
	if (!text.includes(':') || !URL.canParse(`http://[${text}]`)) return text.slice(0, 64)
	const [head = '', tail] = new URL(`http://[${text}]`).hostname.slice(1, -1).split('::')
	const groups = head === '' ? [] : head.split(':')
	if (tail !== undefined) {
		const last = tail === '' ? [] : tail.split(':')
		groups.push(...Array<string>(8 - groups.length - last.length).fill('0'), ...last)
	}
	return `${groups.slice(0, 4).join(':')}::/64`
}
