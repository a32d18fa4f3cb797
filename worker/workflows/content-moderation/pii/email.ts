/** E-mail addresses, with international letters, sub-addresses (`+tag`) and the spelling `name (at) host (dot) tld`. */
import type { PiiPattern } from './pii-pattern.js'

const AT = String.raw`(?:@| ?\(at\) ?)`
const DOT = String.raw`(?:\.| ?\(dot\) ?)`
const LOCAL = String.raw`[\p{L}\p{N}_][\p{L}\p{M}\p{N}._%+'-]{0,63}`
const LABEL = String.raw`[\p{L}\p{N}](?:[\p{L}\p{M}\p{N}-]{0,61}[\p{L}\p{M}\p{N}])?`
const TOP_LEVEL = String.raw`(?:xn--[a-z0-9-]{2,59}|\p{L}[\p{L}\p{M}]{1,23})`

// Every repetition is bounded: the cost of a hostile text stays proportional to its length.
const EMAIL = new RegExp(`${LOCAL}${AT}(?:${LABEL}${DOT}){1,8}${TOP_LEVEL}`, 'giu')

export const email: PiiPattern = {
	kind: 'email',
	find: (folded) =>
		Array.from(folded.matchAll(EMAIL), (match) => ({
			start: match.index,
			end: match.index + match[0].length,
		})),
}
