/**
 * Sees through the spelling of a post before a detector looks at it. `fold` keeps track of where each character
 * came from, so that what is found can be cut out of the original; `spellings` undoes what people do to get past
 * word lists, and gives up positions for it.
 */

interface FoldedText {
	readonly text: string
	/** Offset in the original where the folded character at `index` begins. */
	startOf(index: number): number
	/** Offset in the original where the folded character at `index` ends. */
	endOf(index: number): number
}

/**
 * Compatibility forms become plain (fullwidth letters, circled numbers), every kind of digit, dash and space
 * becomes the ASCII one, and invisible characters vanish. Works character by character: the fold of two texts put
 * together is their folds put together, which redaction relies on.
 */
export function fold(original: string): FoldedText {
	const starts: number[] = []
	const ends: number[] = []
	let text = ''
	let position = 0
	for (const character of original) {
		const end = position + character.length
		const folded = foldCharacter(character)
		for (let i = 0; i < folded.length; i++) {
			starts.push(position)
			ends.push(end)
		}
		text += folded
		position = end
	}
	return {
		text,
		startOf: (index) => starts[index] ?? original.length,
		endOf: (index) => ends[index] ?? original.length,
	}
}

function foldCharacter(character: string): string {
	if (character <= '\u007f') return character
	if (/^[\p{Cf}\u{fe00}-\u{fe0f}]$/u.test(character)) return ''
	return character
		.normalize('NFKC')
		.replace(/\p{Zs}/gu, ' ')
		.replace(/[\p{Pd}\u2212]/gu, '-')
		.replace(/\p{Nd}/gu, asciiDigit)
}

/** Every script keeps its ten digits next to each other, zero first. */
function asciiDigit(digit: string): string {
	if (digit <= '\u007f') return digit
	const codePoint = digit.codePointAt(0) ?? 0
	let zero = codePoint
	while (/^\p{Nd}$/u.test(String.fromCodePoint(zero - 1))) zero -= 1
	return String((codePoint - zero) % 10)
}

/** Letters of other scripts (Cyrillic, Greek, others), each before the Latin one that it looks like. The common ones only. */
const LOOKALIKES: ReadonlyMap<string, string> = new Map(
	'аa вb сc еe һh іi јj кk ӏl мm нh оo рp ѕs тt уy хx αa βb εe ιi κk νv οo ρp τt υu χx ıi łl øo'
		.split(' ')
		.map(([foreign = '', latin = '']) => [foreign, latin]),
)

const LEET: Readonly<Record<string, string>> = {
	0: 'o',
	1: 'i',
	3: 'e',
	4: 'a',
	5: 's',
	7: 't',
	$: 's',
	'@': 'a',
	'!': 'i',
	'|': 'l',
}

const LONG_RUN = /(\p{L})\1{2,}/gu
const OFTEN_DOUBLED = 'elos'

/**
 * The ways in which a text may be meant, in lower case, words separated by one space and nothing else: as written;
 * with leetspeak and spaced-out letters undone; and the same with long runs of a letter ("killll") shortened.
 * A word list matches when any of them matches.
 */
export function spellings(original: string): string[] {
	const lower = fold(original)
		.text.normalize('NFKD')
		.replace(/\p{M}/gu, '')
		.toLowerCase()
		.replace(/['’`]/g, '')
		.replace(/[\u0370-\u052f\u0131\u0142\u00f8]/g, (letter) => LOOKALIKES.get(letter) ?? letter)
	const undone = undoSpacing(undoLeet(lower))
	const shortest = undone.replace(LONG_RUN, '$1')
	const likeliest = undone.replace(LONG_RUN, (_, letter: string) =>
		OFTEN_DOUBLED.includes(letter) ? letter + letter : letter,
	)
	return [...new Set([lower, undone, shortest, likeliest].map(onlyWords))]
}

/** Only inside a word that has letters, and a sign only beside one: "n0w!" is "now!", "100 %" stays. */
function undoLeet(text: string): string {
	return text.replace(/\S+/g, (word) => {
		if (!/\p{L}/u.test(word)) return word
		return word.replace(/[013457]|[$@!|](?=\p{L})|(?<=\p{L})[$@|]/gu, (sign) => LEET[sign] ?? sign)
	})
}

/** "s p a m" and "s.p.a.m" become "spam"; two letters are left alone. */
function undoSpacing(text: string): string {
	return text.replace(/(?<!\p{L})\p{L}(?:[ .\-_*]\p{L}){2,}(?!\p{L})/gu, (letters) =>
		letters.replace(/[^\p{L}]/gu, ''),
	)
}

function onlyWords(text: string): string {
	return text.replace(/[^\p{L}\p{N}%]+/gu, ' ').trim()
}
