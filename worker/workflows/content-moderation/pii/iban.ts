/** IBANs, in one piece or grouped: a known country, the length of that country, and the check digits (ISO 13616, mod 97). */
import type { PiiPattern, Span } from './pii-pattern.js'

/** Lengths by country, from the SWIFT IBAN registry. */
const LENGTHS: Readonly<Record<string, number>> = Object.fromEntries(
	(
		'AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ' +
		'ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 ' +
		'LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 ' +
		'PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30'
	)
		.split(' ')
		.map((entry) => [entry.slice(0, 2), Number(entry.slice(2))]),
)

const START = /(?<![\p{L}\p{N}])[a-z]{2}\d{2}/giu

export const iban: PiiPattern = {
	kind: 'iban',
	find(folded) {
		const spans: Span[] = []
		for (const match of folded.matchAll(START)) {
			const length = LENGTHS[match[0].slice(0, 2).toUpperCase()]
			const end = length === undefined ? undefined : endOfIban(folded, match.index, length)
			if (end !== undefined) spans.push({ start: match.index, end })
		}
		return spans
	},
}

/** Reads `length` letters and digits from `start`, one space or dash allowed between any two. */
function endOfIban(folded: string, start: number, length: number): number | undefined {
	let characters = ''
	let position = start
	while (characters.length < length) {
		if (characters && /[ -]/.test(folded[position] ?? '')) position += 1
		const character = folded[position] ?? ''
		if (!/^[a-z0-9]$/i.test(character)) return undefined
		characters += character
		position += 1
	}
	if (/^[\p{L}\p{N}]/u.test(folded.slice(position, position + 2))) return undefined
	return hasValidCheckDigits(characters) ? position : undefined
}

/** True if the IBAN (no separators) leaves 1 when divided by 97. */
export function hasValidCheckDigits(characters: string): boolean {
	const upper = characters.toUpperCase()
	if (!/^[A-Z]{2}\d{2}[A-Z0-9]+$/.test(upper)) return false
	return ibanRemainder(upper.slice(4) + upper.slice(0, 4)) === 1
}

/** `rearranged` modulo 97, letters counting as 10 to 35. Digit by digit, since the number is too long for one. */
export function ibanRemainder(rearranged: string): number {
	let remainder = 0
	for (const character of rearranged) {
		const value = Number.parseInt(character, 36)
		remainder = (remainder * (value > 9 ? 100 : 10) + value) % 97
	}
	return remainder
}
