# acie_redc_adx: Montgomery reduction that also returns its multiplier.
#
#   u64 acie_redc_adx(u64 *acc, const u64 *n, u64 limbs, u64 neg_inv, u64 *m)
#
# System V call. acc holds 2 * limbs limbs, limbs is a positive multiple of 8 and
# neg_inv = -1/n mod 2^64. With R = 2^(64 limbs): m = -acc/n mod R is stored, m * n is
# added, so acc[0..limbs] becomes 0 and acc[limbs..] plus the returned carry (0 or 1) times R
# is (acc + m n) / R. The run time depends on limbs only.
#
#   rdi  acc, first limb of the current row       rsi  n
#   rdx  current limb of m (mulx source)          rcx  blocks left (jrcxz keeps CF and OF)
#   r8   walks n                                  r9   walks acc
#   r10  rows left                                r11  neg_inv
#   rax  low half of a product                    rbx, rbp  high halves, alternating
#   r12  carry between rows                       r13  blocks in a row
#   r14  zero                                     r15  next limb of m
#
# CF carries (low + previous high), OF carries (+ acc): two independent chains.

    .text
    .globl acie_redc_adx
    .p2align 5
acie_redc_adx:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov r15, r8
    mov r10, rdx
    mov r11, rcx
    mov r13, rdx
    shr r13, 3
    xor r12d, r12d
.Lredc_row:
    mov rdx, [rdi]
    imul rdx, r11
    mov [r15], rdx
    lea r15, [r15 + 8]
    mov r8, rsi
    mov r9, rdi
    mov rcx, r13
    xor r14d, r14d              # also clears CF and OF
    mov ebp, 0
    .p2align 5
.Lredc_block:
    mulx rbx, rax, [r8]
    adcx rax, rbp
    adox rax, [r9]
    mov [r9], rax
    mulx rbp, rax, [r8 + 8]
    adcx rax, rbx
    adox rax, [r9 + 8]
    mov [r9 + 8], rax
    mulx rbx, rax, [r8 + 16]
    adcx rax, rbp
    adox rax, [r9 + 16]
    mov [r9 + 16], rax
    mulx rbp, rax, [r8 + 24]
    adcx rax, rbx
    adox rax, [r9 + 24]
    mov [r9 + 24], rax
    mulx rbx, rax, [r8 + 32]
    adcx rax, rbp
    adox rax, [r9 + 32]
    mov [r9 + 32], rax
    mulx rbp, rax, [r8 + 40]
    adcx rax, rbx
    adox rax, [r9 + 40]
    mov [r9 + 40], rax
    mulx rbx, rax, [r8 + 48]
    adcx rax, rbp
    adox rax, [r9 + 48]
    mov [r9 + 48], rax
    mulx rbp, rax, [r8 + 56]
    adcx rax, rbx
    adox rax, [r9 + 56]
    mov [r9 + 56], rax
    lea r8, [r8 + 64]
    lea r9, [r9 + 64]
    lea rcx, [rcx - 1]
    jrcxz .Lredc_row_end
    jmp .Lredc_block
.Lredc_row_end:
    adcx rbp, r14
    adox rbp, r14
    neg r12                     # CF = carry of the row before
    adc rbp, [r9]
    mov [r9], rbp
    mov r12d, 0
    adc r12, 0
    lea rdi, [rdi + 8]
    dec r10
    jnz .Lredc_row
    mov rax, r12
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
