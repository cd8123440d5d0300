# acie_mul_acc_adx: acc += x * y on little-endian 64-bit limbs.
#
#   u64 acie_mul_acc_adx(u64 *acc, const u64 *x, u64 x_limbs, const u64 *y, u64 y_limbs)
#
# System V call. y_limbs is a positive multiple of 8, x_limbs is positive, acc holds
# x_limbs + y_limbs limbs. Returns the carry (0 or 1) out of the top limb.
# The run time depends on the two lengths only.
#
#   rdi  acc, first limb of the current row       rsi  next limb of x
#   rdx  current limb of x (mulx source)          rcx  blocks left (jrcxz keeps CF and OF)
#   r8   walks y                                  r9   walks acc
#   r10  rows left                                r11  y
#   rax  low half of a product                    rbx, rbp  high halves, alternating
#   r12  carry between rows                       r13  blocks in a row
#   r14  zero
#
# CF carries (low + previous high), OF carries (+ acc): two independent chains.

    .text
    .globl acie_mul_acc_adx
    .p2align 5
acie_mul_acc_adx:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    mov r10, rdx
    mov r11, rcx
    mov r13, r8
    shr r13, 3
    xor r12d, r12d
.Lmul_acc_row:
    mov rdx, [rsi]
    lea rsi, [rsi + 8]
    mov r8, r11
    mov r9, rdi
    mov rcx, r13
    xor r14d, r14d              # also clears CF and OF
    mov ebp, 0
    .p2align 5
.Lmul_acc_block:
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
    jrcxz .Lmul_acc_row_end
    jmp .Lmul_acc_block
.Lmul_acc_row_end:
    adcx rbp, r14
    adox rbp, r14
    neg r12                     # CF = carry of the row before
    adc rbp, [r9]
    mov [r9], rbp
    mov r12d, 0
    adc r12, 0
    lea rdi, [rdi + 8]
    dec r10
    jnz .Lmul_acc_row
    mov rax, r12
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
